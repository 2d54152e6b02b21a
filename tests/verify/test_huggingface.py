"""The reference's own arithmetic: greedy decoding, cached decoding, LoRA, stop tokens, errors of the loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from pipeline.errors import StageFailed
from pipeline.verify import huggingface
from tests.verify.helpers import MODEL, write_model

PROMPT = [72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("huggingface") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return huggingface.load_model(folder, MODEL)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return huggingface.load_tokenizer(folder)


def test_greedy_decoding_equals_transformers_generate(model: Any, tokenizer: Any) -> None:
    answer = huggingface.greedy(model, tokenizer, PROMPT, [], 16)
    expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=16, min_new_tokens=16, do_sample=False)
    assert answer.ids == expected[0, len(PROMPT) :].tolist()
    assert not answer.stopped


def test_greedy_decoding_stops_at_a_stop_token_and_says_so(model: Any, tokenizer: Any) -> None:
    free = huggingface.greedy(model, tokenizer, PROMPT, [], 16)
    stop = free.ids[5]
    answer = huggingface.greedy(model, tokenizer, PROMPT, [stop], 16)
    assert answer.stopped
    assert answer.ids == free.ids[: free.ids.index(stop) + 1]
    assert tokenizer.decode(answer.ids[:-1]) == answer.text


def test_cached_decoding_equals_one_pass(model: Any) -> None:
    ids = list(range(20, 60))
    rows = huggingface.decode_logits(model, ids[:30], ids[30:])
    np.testing.assert_allclose(rows, huggingface.sequence_logits(model, ids), atol=2e-5)


def test_stop_ids_are_those_of_the_generation_config_and_the_tokenizer(model: Any, tokenizer: Any) -> None:
    class Tokenizer:
        eos_token_id = 9

    class Model:
        generation_config = type("Config", (), {"eos_token_id": [4, 7]})

    assert huggingface.stop_ids(Model, Tokenizer) == [4, 7, 9]
    assert huggingface.stop_ids(model, tokenizer) == []


def test_rounding_matrices_reports_whether_anything_changed(folder: Path) -> None:
    fresh = huggingface.load_model(folder, MODEL)
    assert not huggingface.round_matrices(fresh)
    with torch.no_grad():
        fresh.model.layers[0].mlp.up_proj.weight[0, 0] = 1.0001
    assert huggingface.round_matrices(fresh)
    assert fresh.model.layers[0].mlp.up_proj.weight[0, 0] == 1.0


def test_the_table_is_bfloat16_until_a_value_is_not(folder: Path) -> None:
    fresh = huggingface.load_model(folder, MODEL)
    assert huggingface.bfloat16_table(fresh)
    with torch.no_grad():
        fresh.get_input_embeddings().weight[0, 0] = 1.001
    assert not huggingface.bfloat16_table(fresh)


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = huggingface.load_model(folder, MODEL)
    torch.manual_seed(3)
    adapted = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    out = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(out)
    return out


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_adapter_is_merged_as_peft_applies_it(folder: Path, adapter: Path, weight: float) -> None:
    merged = huggingface.load_model(folder, MODEL, adapter, weight)
    base = huggingface.load_model(folder, MODEL)
    lora = peft.PeftModel.from_pretrained(base, str(adapter))
    layer = lora.base_model.model.model.layers[0].self_attn.q_proj
    delta = weight * layer.get_delta_weight("default")
    expected = layer.base_layer.weight + delta
    torch.testing.assert_close(merged.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6, rtol=0)
    assert delta.abs().max() > 1e-3


def test_several_adapters_are_merged_in_order_with_their_weights(folder: Path, tmp_path: Path) -> None:
    """The layout of a recipe's `adapter.path=A+B@0.3`, against PEFT's own differences of single layers."""
    for name, seed, options in (("0", 1, {}), ("1@0.3", 2, {"r": 9, "use_rslora": True}), ("10", 3, {})):
        torch.manual_seed(seed)
        config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, **options})
        peft.get_peft_model(huggingface.load_model(folder, MODEL), config).save_pretrained(tmp_path / name)
    assert [path.name for path, _ in huggingface.adapter_folders(tmp_path)] == ["0", "1@0.3", "10"]
    merged = huggingface.load_model(folder, MODEL, tmp_path, 0.5)
    base = huggingface.load_model(folder, MODEL)
    expected = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    for name, weight in (("0", 0.5), ("1@0.3", 0.15), ("10", 0.5)):
        lora = peft.PeftModel.from_pretrained(huggingface.load_model(folder, MODEL), str(tmp_path / name))
        expected += weight * lora.base_model.model.model.layers[0].self_attn.q_proj.get_delta_weight("default").detach()
    torch.testing.assert_close(merged.model.layers[0].self_attn.q_proj.weight, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_tied_model_computes_what_the_adapted_one_does(tmp_path: Path, target: str) -> None:
    """PEFT merges into the shared tensor and so changes both ends."""
    source = write_model(tmp_path / "model", tie_word_embeddings=True)
    torch.manual_seed(4)
    adapted = peft.get_peft_model(
        huggingface.load_model(source, MODEL),
        peft.LoraConfig(r=4, target_modules=["q_proj", target], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted.eval()(torch.tensor([PROMPT])).logits[0].numpy()
    merged = huggingface.load_model(source, MODEL, tmp_path / "adapter")
    np.testing.assert_allclose(huggingface.sequence_logits(merged, PROMPT), expected, atol=1e-4)
    plain = huggingface.sequence_logits(huggingface.load_model(source, MODEL), PROMPT)
    assert np.abs(plain - expected).max() > 0.05


def test_an_adapter_is_lent_to_a_model_and_taken_back(model: Any, adapter: Path) -> None:
    before = huggingface.sequence_logits(model, PROMPT)
    with huggingface.adapted(model, adapter, 0.5) as lent:
        during = huggingface.sequence_logits(lent, PROMPT)
    assert np.abs(during - before).max() > 0.01
    np.testing.assert_array_equal(huggingface.sequence_logits(model, PROMPT), before)


def test_a_folder_that_transformers_cannot_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(StageFailed, match="Hugging Face cannot load the reference") as failure:
        huggingface.load_model(tmp_path, MODEL)
    assert "\n" not in str(failure.value)


def test_pickled_weights_are_not_read_unless_allowed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(huggingface.load_model(folder, MODEL).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(StageFailed):
        huggingface.load_model(tmp_path, MODEL)
    allowed = huggingface.load_model(tmp_path, {**MODEL, "allow_pickle": True})
    assert huggingface.sequence_logits(allowed, PROMPT).shape == (5, 256)


def test_an_adapter_is_merged_after_a_quick_import_too(folder: Path, adapter: Path) -> None:
    """As in the stage `reference`, whose worker has no torch.distributed.tensor; PEFT asked for it all the same."""
    code = (
        "import sys; from pathlib import Path; from pipeline.graph import quick_import; "
        "from pipeline.verify import huggingface; "
        f"model = huggingface.load_model(Path(sys.argv[1]), {MODEL!r}, Path(sys.argv[2]), 1.0); "
        "print(float(model.model.layers[0].self_attn.q_proj.weight.sum()))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder), str(adapter)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = huggingface.load_model(folder, MODEL, adapter, 1.0).model.layers[0].self_attn.q_proj.weight.sum()
    assert float(run.stdout.split()[-1]) == pytest.approx(float(expected), rel=1e-5)
