"""The engine through its child process, against Hugging Face; and every way in which it can die or lie."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from pipeline.errors import StageFailed, UserError
from pipeline.mnn.runner import Engine, EngineError
from tests.mnn.handmade import STOP

IDS = [1, 5, 100, 256, 30, 40, 77, 257, 12, 299, 0, 64]


@pytest.fixture(scope="module")
def engine(product: Path) -> Iterator[Engine]:
    with Engine(product) as running:
        yield running


@pytest.fixture
def copy(product: Path, tmp_path: Path) -> Path:
    """A product that a test may damage."""
    return Path(shutil.copytree(product, tmp_path / "copy"))


def _truth(model: Qwen3ForCausalLM, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def test_logits_of_every_position(engine: Engine, model: Qwen3ForCausalLM) -> None:
    logits = engine.logits(IDS)
    assert logits.shape == (len(IDS), 300)
    assert logits.dtype == np.float32
    assert np.abs(logits - _truth(model, IDS)).max() < 2e-5


def test_logits_of_one_token(engine: Engine, model: Qwen3ForCausalLM) -> None:
    assert np.abs(engine.logits([7]) - _truth(model, [7])).max() < 2e-5


def test_every_call_of_logits_is_a_fresh_sequence(engine: Engine) -> None:
    first = engine.logits(IDS)
    engine.logits([9, 9, 9])
    assert np.array_equal(engine.logits(IDS), first)


def test_cached_steps_equal_the_whole_sequence(engine: Engine, model: Qwen3ForCausalLM) -> None:
    truth = _truth(model, IDS)
    rows = [engine.prefill(IDS[:5]), *(engine.step(token) for token in IDS[5:])]
    assert np.abs(np.stack(rows) - truth[4:]).max() < 2e-5


def test_prefill_can_continue_the_cached_sequence(engine: Engine, model: Qwen3ForCausalLM) -> None:
    engine.prefill(IDS[:4])
    assert np.abs(engine.prefill(IDS[4:], keep=True) - _truth(model, IDS)[-1]).max() < 2e-5


def test_prefill_starts_afresh(engine: Engine, model: Qwen3ForCausalLM) -> None:
    engine.prefill([3, 3, 3])
    assert np.abs(engine.prefill(IDS) - _truth(model, IDS)[-1]).max() < 2e-5


def test_erase_takes_the_end_of_the_sequence_back(engine: Engine, model: Qwen3ForCausalLM) -> None:
    engine.prefill(IDS[:6])
    engine.prefill([9, 9], keep=True)
    engine.erase(6)
    assert np.abs(engine.prefill(IDS[6:], keep=True) - _truth(model, IDS)[-1]).max() < 2e-5


def test_greedy_generation_equals_hugging_faces(engine: Engine, model: Qwen3ForCausalLM) -> None:
    expected = model.generate(torch.tensor([IDS]), max_new_tokens=12, do_sample=False, eos_token_id=STOP)
    assert engine.generate(IDS, 12) == expected[0, len(IDS) :].tolist()


def test_generation_is_repeatable_after_other_calls(engine: Engine) -> None:
    first = engine.generate(IDS, 6)
    engine.logits([1, 2])
    assert engine.generate(IDS, 6) == first


def test_the_products_own_sampler_is_used_when_asked(product: Path) -> None:
    """`mixed` is the product's sampler_type. min_p, an absolute threshold in this engine, would leave one token."""
    overrides = {"mixed_samplers": ["topK", "temperature"], "temperature": 3.0}
    with Engine(product, overrides) as greedy:
        assert len({tuple(greedy.generate(IDS, 8)) for _ in range(6)}) == 1
    with Engine(product, overrides, sampled=True) as engine:
        assert len({tuple(engine.generate(IDS, 8)) for _ in range(6)}) > 1


def test_overrides_reach_the_engine(product: Path) -> None:
    with Engine(product, {"thread_num": 2, "memory": "high"}) as engine:
        assert engine.config["thread_num"] == 2
        assert engine.config["memory"] == "high"
        assert engine.config["sampler_type"] == "greedy"


@pytest.mark.parametrize("runs", [{"chunk": 8}, {"chunk_limits": [4, 1]}])
def test_logits_are_whole_whatever_runs_a_product_has(
    product: Path, model: Qwen3ForCausalLM, tmp_path: Path, runs: dict[str, Any]
) -> None:
    """In runs the engine alone keeps the last one's rows; prefill goes in runs all the same."""
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | runs))
    ids = list(range(1, 21))
    with Engine(folder) as engine:
        found = engine.logits(ids)
        assert np.abs(found - _truth(model, ids)).max() < 1e-3 * np.abs(found).max()
        assert np.abs(engine.prefill(ids) - found[-1]).max() < 1e-3 * np.abs(found).max()


def test_tokens_and_text(engine: Engine) -> None:
    ids = engine.tokenize("hé<|im_end|>")
    assert ids == [ord("h"), 0xC3, 0xA9, STOP]
    assert engine.detokenize(ids) == "hé<|im_end|>"


def test_a_token_may_end_inside_a_character(engine: Engine) -> None:
    assert engine.token_bytes([0xF0, 0x9F, 0x98, 0x80]) == [b"\xf0", b"\x9f", b"\x98", b"\x80"]
    assert engine.detokenize([0xF0, 0x9F, 0x98, 0x80]) == "😀"
    assert engine.detokenize([0xC3]) == "�"


def test_the_template_of_the_product(engine: Engine) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert engine.apply_template(messages) == expected


def test_the_sizes_it_knows(engine: Engine) -> None:
    assert engine.vocab_size == 300
    assert engine.product.stop_ids == (STOP,)
    assert engine.stats["load"] > 0
    assert 20e6 < engine.peak_memory() < 2e9


@pytest.mark.parametrize("ids", [[300], [-1], [5, 2**40]])
def test_ids_out_of_range_never_reach_native_code(engine: Engine, ids: list[int]) -> None:
    for call in (engine.logits, engine.prefill, engine.token_bytes, lambda x: engine.generate(x, 1)):
        with pytest.raises(EngineError, match=r"out of range 0 … 299"):
            call(ids)
    assert engine.logits([1]).shape == (1, 300)


def test_no_tokens_is_an_error(engine: Engine) -> None:
    with pytest.raises(EngineError, match="empty list"):
        engine.logits([])


def test_a_crash_is_an_error_with_signal_and_log(product: Path, tmp_path: Path) -> None:
    engine = Engine(product, log=tmp_path / "engine.log")
    engine.load()
    assert engine._process is not None
    os.kill(engine._process.pid, signal.SIGSEGV)
    with pytest.raises(EngineError, match=r"killed by SIGSEGV during logits for tiny.*engine\.log"):
        engine.logits(IDS)
    with pytest.raises(EngineError, match="not running"):
        engine.logits(IDS)


def test_a_hang_ends_after_the_time_limit(product: Path) -> None:
    with Engine(product) as engine:
        assert engine._process is not None
        os.kill(engine._process.pid, signal.SIGSTOP)
        engine.timeout = 0.3
        process = engine._process
        with pytest.raises(EngineError, match=r"no answer to logits within 0\.3 s"):
            engine.logits(IDS)
        assert process.poll() is not None


def test_the_child_is_gone_afterwards(product: Path) -> None:
    with Engine(product) as engine:
        process, log = engine._process, engine.log
    assert process is not None
    assert process.poll() == 0
    assert not log.exists()


def test_a_log_of_ones_own_is_kept(product: Path, tmp_path: Path) -> None:
    with Engine(product, log=tmp_path / "logs" / "engine.log") as engine:
        engine.logits([1])
    assert (tmp_path / "logs" / "engine.log").is_file()


def test_two_engines_at_once(product: Path) -> None:
    with Engine(product) as first, Engine(product) as second:
        assert np.array_equal(first.logits(IDS), second.logits(IDS))


def test_nothing_is_written_into_the_product_or_here(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in product.iterdir())
    monkeypatch.chdir(tmp_path)
    with Engine(product, {"backend_type": "opencl"}) as engine:
        engine.logits(IDS)
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in product.iterdir()) == before


def test_a_folder_that_holds_no_product(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no product at"):
        Engine(tmp_path)


def test_a_config_file_may_be_named(copy: Path) -> None:
    (copy / "config.json").rename(copy / "config_mobile.json")
    with Engine(copy / "config_mobile.json") as engine:
        assert engine.vocab_size == 300


def test_a_model_may_be_named_without_a_config(copy: Path, model: Qwen3ForCausalLM) -> None:
    """The engine's defaults then: int8 activations, so that logits are near the truth and no nearer."""
    (copy / "config.json").unlink()
    with Engine(copy / "llm.mnn", {"memory": "normal"}) as engine:
        assert np.abs(engine.logits(IDS) - _truth(model, IDS)).max() < 2e-5


def test_an_engine_can_be_loaded_again(product: Path) -> None:
    engine = Engine(product)
    for _ in range(2):
        engine.load()
        assert engine.logits([1]).shape == (1, 300)
        engine.close()


def test_a_missing_adapter_is_found_before_the_engine(product: Path) -> None:
    with pytest.raises(StageFailed, match=r"lora\.mnn is missing"):
        Engine(product, adapter="lora.mnn")


def test_a_model_of_another_width_is_refused(copy: Path) -> None:
    """The engine loads it and answers ''."""
    config = json.loads((copy / "llm_config.json").read_text())
    (copy / "llm_config.json").write_text(json.dumps(config | {"hidden_size": 128}))
    with Engine(copy) as engine, pytest.raises(EngineError):
        engine.generate(IDS, 4)


def test_a_damaged_graph_is_refused(copy: Path) -> None:
    content = (copy / "llm.mnn").read_bytes()
    (copy / "llm.mnn").write_bytes(content[: len(content) // 2])
    with pytest.raises(StageFailed, match=r"damaged|load"), Engine(copy):
        pass
