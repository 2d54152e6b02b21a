"""Tiny random embedding models as sentence-transformers folders, and the products that the stages make of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel

from pipeline.recipe.schema import Recipe
from pipeline.verify import selfcheck
from tests.tiny_models import _randomise

ENCODER = {
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 66, "pad_token_id": 1,
}  # fmt: skip
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True, "eos_token_id": 3}
# name → (model_type, config, pooling flag)
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("bert", ENCODER, "mean_tokens"),
    "bge": ("bert", ENCODER, "cls_token"),
    "max": ("bert", ENCODER, "max_tokens"),
    "distilbert": ("distilbert", {"vocab_size": 300, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
                                  "max_position_embeddings": 66, "pad_token_id": 1}, "mean_tokens"),
    "roberta": ("roberta", ENCODER, "mean_tokens"),
    "bge-m3": ("xlm-roberta", ENCODER, "cls_token"),
    "nomic": ("nomic_bert", ENCODER, "mean_tokens"),
    "albert": ("albert", {**ENCODER, "embedding_size": 32}, "mean_tokens"),
    "qwen3": ("qwen3", DECODER, "lasttoken"),
    "llama": ("llama", DECODER, "mean_tokens"),
}  # fmt: skip
TEXTS = ("a man eats", "The Cat sat on the mat, and then it SAT on the cat!", "x", "")


def write_sentence_model(name: str, folder: Path, **changes: Any) -> Path:
    """The folder of MODELS[name]: weights that fp16 and bf16 hold exactly, tokenizer, sentence-transformers' files."""
    model_type, config, pooling = MODELS[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **{**config, **changes}), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            _randomise(parameter, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer(last=pooling == "lasttoken").save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write_json(folder / "modules.json", [{"path": path, "type": f"sentence_transformers.models.{kind}"}
                                         for path, kind in kinds])  # fmt: skip
    write_json(folder / "1_Pooling" / "config.json", {f"pooling_mode_{pooling}": True})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 24})
    return folder


def tokenizer(last: bool) -> Tokenizer:
    """WordPiece of letters, pairs and a few words; [CLS] … [SEP] around a text, or [SEP] behind it only."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "cat", "mat", "the"]
    made = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    single = "$A [SEP]" if last else "[CLS] $A [SEP]"
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def build_product(folder: Path, work: Path, **model: Any) -> Path:
    """The folder through every stage but the proofs, in fp16; with the manifest's part that the runner reads."""
    recipe = asdict(Recipe())
    recipe["model"] |= {"task": "embedding", **model}
    recipe["quant"] |= {"bits": 16, "block": 0}
    product = selfcheck.build(folder, work, recipe)
    layout = json.loads((work / "graph" / "layout.json").read_text("utf-8"))
    write_json(product / "manifest.json", {"model": layout})
    return product
