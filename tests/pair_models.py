"""Tiny random cross-encoders as Hugging Face folders, and the products that the stages make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests import sentence_models
from tests.sentence_models import ENCODER, write_json
from tests.tiny_models import _randomise
from tests.tokenizer import tiny

SMALL = {**ENCODER, "num_labels": 1, "classifier_dropout": 0.0}
# name → (model_type, config)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": ("bert", SMALL),
    "bge": ("xlm-roberta", SMALL),
    "roberta": ("roberta", SMALL),
    "electra": ("electra", {**SMALL, "embedding_size": 32}),
    "albert": ("albert", {**SMALL, "embedding_size": 32}),
    "distilbert": ("distilbert", {"vocab_size": 300, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
                                  "max_position_embeddings": 66, "pad_token_id": 1, "num_labels": 1}),
}  # fmt: skip
TYPED = frozenset({"minilm", "electra", "albert"})
QUERY = "What eats a cat?"
DOCUMENTS = ("The cat sat on the mat.", "x", "", "one [SEP] two [CLS] three", "a mat eats the cat, " * 9)
LIMIT = 48


def write_cross_encoder(name: str, folder: Path, **changes: Any) -> Path:
    """The folder of MODELS[name]: weights that fp16 and bf16 hold exactly, and WordPiece with the family's pairs."""
    model_type, config = MODELS[name]
    torch.manual_seed(0)
    whole = AutoConfig.for_model(model_type, **{**config, **changes})
    model = AutoModelForSequenceClassification.from_config(whole, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            _randomise(parameter, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer(name in TYPED).save(str(folder / "tokenizer.json"))
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if name in TYPED else [])]
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": LIMIT}
    write_json(folder / "tokenizer_config.json", {**told, "model_input_names": names})
    return folder


def tokenizer(typed: bool) -> Tokenizer:
    """WordPiece as for sentences; BERT's pairs with token types, or RoBERTa's with two separators and none."""
    made = sentence_models.tokenizer(last=False)
    middle, kind = ("[SEP]", 1) if typed else ("[SEP] [SEP]", 0)
    pair = f"[CLS] $A {middle} $B:{kind} [SEP]:{kind}"
    tokens = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=tokens)
    return made


def write_bge(folder: Path) -> Path:
    """A tiny bge-reranker with a tokenizer of its kind: XLM-R's Unigram, its special tokens and its ids for them."""
    made = tiny.xlm_roberta()
    made.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    sizes = {"vocab_size": made.get_vocab_size(), "max_position_embeddings": 130}
    write_cross_encoder("bge", folder, bos_token_id=0, eos_token_id=2, **sizes)
    made.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>",
             "pad_token": "<pad>", "mask_token": "<mask>"}  # fmt: skip
    told = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 128, **names}
    write_json(folder / "tokenizer_config.json", told)
    return folder


def build_product(folder: Path, work: Path) -> Path:
    """The folder through every stage but the proofs, in fp16; with the manifest's part that the runner reads."""
    return sentence_models.build_product(folder, work, task="rerank")
