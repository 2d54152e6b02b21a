"""The Hugging Face model's own answer, and where a product's parts from it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from pipeline.__main__ import main
from pipeline.use.ask import part
from tests.mnn.handmade import SPECIALS, STOP, TEMPLATE, _byte_symbols, tiny_model, write_product


@pytest.fixture(scope="module")
def folder(model: Qwen3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' model as a Hugging Face folder, with the same tokenizer as the product's."""
    folder = tmp_path_factory.mktemp("hf") / "tiny"
    model.save_pretrained(folder)
    vocabulary = {symbol: number for number, symbol in enumerate(_byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIALS[STOP])
    fast.add_special_tokens({"additional_special_tokens": [SPECIALS[256]]})
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


def _ids(folder: Path, model: Qwen3ForCausalLM) -> tuple[list[int], str]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    new = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, len(prompt) :].tolist()
    return new, tokenizer.decode(new, skip_special_tokens=True)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"cache.dir={tmp_path / 'store'}"


def test_it_answers(
    folder: Path, model: Qwen3ForCausalLM, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(folder), "Hi", store, "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out == _ids(folder, model)[1] + "\n"


def test_an_adapter_is_part_of_the_model(
    folder: Path, model: Qwen3ForCausalLM, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A LoRA with large random values: PEFT's own answer, which is not the base's."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    adapted.save_pretrained(tmp_path / "lora")
    overrides = ["adapter=merge", f"adapter.path={tmp_path / 'lora'}", store]
    assert main(["ask", str(folder), "Hi", *overrides, "--max-new-tokens", "6"]) == 0
    told = capsys.readouterr().out
    assert told == _ids(folder, adapted)[1] + "\n"
    assert told != _ids(folder, model)[1] + "\n"
    split = ["adapter=split", f"adapter.path=pirate={tmp_path / 'lora'}", store]
    assert main(["ask", str(folder), "Hi", *split, "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out == told
    both = ["adapter=split", f"adapter.path={tmp_path / 'lora'}+{tmp_path / 'lora'}", store]
    assert main(["ask", str(folder), "Hi", *both]) == 3
    assert "split adapters answer one at a time" in capsys.readouterr().err


def test_another_model_parts_from_it(
    folder: Path, model: Qwen3ForCausalLM, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_product(tiny_model(seed=1), tmp_path / "other")
    assert main(["ask", str(folder), "Hi", store, "--max-new-tokens", "6", "--against", str(other)]) == 0
    out = capsys.readouterr().out
    assert "They part at token 1:" in out


def test_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "smollm2-136m", "Hi"]) == 3
    assert "Did you mean 'smollm2-" in capsys.readouterr().err


def test_a_sweep_is_refused(folder: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(folder), "Hi", store, "quant=int4,int8"]) == 3
    assert "leave the commas out" in capsys.readouterr().err


def test_a_folder_that_is_no_model(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert main(["ask", str(tmp_path), "Hi", store]) != 0
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 3], 1), ([], [1], 0), ([], [], None), ([4], [5], 0)],
)
def test_where_they_part(first: list[int], second: list[int], expected: int | None) -> None:
    assert part(first, second) == expected
