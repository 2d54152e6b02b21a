"""Models with a state from token to token, on the engine against Hugging Face: what works, and what is not left to it.

Logits are compared as shares of the largest |logit|; 1e-5 is five times what float32 sums were measured to differ by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import StageFailed, UserError
from pipeline.mnn.converter import Converter
from pipeline.mnn.link import link
from pipeline.mnn.rewrite.low_rank import LowRank
from pipeline.mnn.runner import Engine, EngineError
from pipeline.mnn.runner.product import is_recurrent, open_product
from tests.graph import coverage
from tests.graph.product import Logits, build, reference_logits
from tests.tiny_models import load_reference, random_ids, write_tiny_model

coverage.quiet()
EXACT = {"precision": "high", "memory": "high", "thread_num": 1}
IDS = random_ids(48)
LIMIT = 1e-5
WRONG = 1e-2


@pytest.fixture(scope="module", params=["lfm2", "qwen3_5"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Logits]:
    """The product, and Hugging Face's logits of IDS."""
    folder = tmp_path_factory.mktemp(request.param)
    source = write_tiny_model(request.param, folder / "source")
    return build(source, folder / "work"), reference_logits(load_reference(source), IDS)


@pytest.fixture(scope="module")
def truth(built: tuple[Path, Logits]) -> Logits:
    return built[1]


@pytest.fixture(scope="module")
def engine(built: tuple[Path, Logits]) -> Iterator[Engine]:
    with Engine(built[0], EXACT, timeout=60) as running:
        yield running


def _error(truth: Logits, position: int, found: Logits) -> float:
    """Of the logits after IDS[position]; the largest of all positions is the measure."""
    return float(np.abs(truth[position] - found).max() / np.abs(truth).max())


def test_the_graph_itself_says_that_it_is_recurrent(built: tuple[Path, Logits], product: Path) -> None:
    assert open_product(built[0]).recurrent
    assert not open_product(product).recurrent
    assert not is_recurrent((product / "llm.mnn").read_bytes())


def test_every_sequence_starts_afresh(engine: Engine, truth: Logits) -> None:
    for length in (40, 7, 40, 2):
        assert _error(truth, length - 1, engine.prefill(IDS[:length])) < LIMIT


def test_a_sequence_goes_on_in_pieces_of_any_length(engine: Engine, truth: Logits) -> None:
    engine.prefill(IDS[:7])
    for start, stop in ((7, 20), (20, 21), (21, 23), (23, 40)):
        assert _error(truth, stop - 1, engine.prefill(IDS[start:stop], keep=True)) < LIMIT
    for position in range(40, 48):
        assert _error(truth, position, engine.step(IDS[position])) < LIMIT


@pytest.mark.parametrize("chunk", [13, 16, 39])
def test_prompts_in_runs(built: tuple[Path, Logits], truth: Logits, chunk: int) -> None:
    """The last run of 13 and of 39 is a single token."""
    with Engine(built[0], {**EXACT, "chunk": chunk}, timeout=60) as engine:
        for _ in range(2):
            assert _error(truth, 39, engine.prefill(IDS[:40])) < LIMIT
            assert _error(truth, 40, engine.step(IDS[40])) < LIMIT


def test_a_single_token_behind_another_sequence(engine: Engine, truth: Logits) -> None:
    for _ in range(2):
        engine.prefill(IDS[1:40])
        assert _error(truth, 0, engine.prefill(IDS[:1])) < LIMIT
        assert _error(truth, 1, engine.step(IDS[1])) < LIMIT
    assert np.array_equal(engine.logits(IDS[:1])[0], engine.logits(IDS[:1])[0])
    assert engine.generate(IDS[:1], 4) == engine.generate(IDS[:1], 4)


def test_without_a_new_child_the_engine_would_remember(engine: Engine, truth: Logits) -> None:
    """If this fails the engine has learnt to forget, and `Engine._start_over` can go."""
    engine.prefill(IDS[1:40])
    engine._call("erase", begin=0)
    _, rows = engine._call("prefill", ids=IDS[:1], keep=True)
    assert _error(truth, 0, rows[0]) > WRONG


def test_tokens_cannot_be_taken_back(engine: Engine, truth: Logits) -> None:
    engine.prefill(IDS[:40])
    with pytest.raises(EngineError, match="recurrent state cannot be taken back"):
        engine.erase(20)
    engine._call("erase", begin=20)
    assert _error(truth, 39, engine.prefill(IDS[20:40], keep=True)) > WRONG, "the engine can do it: allow it"
    assert _error(truth, 39, engine.prefill(IDS[:40])) < LIMIT


def test_the_engines_own_loop(engine: Engine, truth: Logits) -> None:
    first = engine.generate(IDS[:40], 3)
    assert first[0] == int(truth[39].argmax())
    assert engine.generate(IDS[:40], 3) == first


@pytest.mark.parametrize(
    ("key", "value"), [("speculative_type", "lookahead"), ("chunk_limits", [128, 1]), ("chunk", 1)]
)
def test_keys_that_would_spoil_the_state_are_refused(built: tuple[Path, Logits], key: str, value: object) -> None:
    with pytest.raises(UserError, match=f": {key}: "):
        Engine(built[0], {**EXACT, key: value})


def _adapter(folder: Path, skip: tuple[str, ...]) -> dict[str, LowRank]:
    """A random change of every linear but the head and those whose names end so."""
    layout = json.loads((folder.parent / "graph" / "layout.json").read_text())
    random = np.random.default_rng(0)
    return {
        one["name"]: LowRank(
            random.standard_normal((4, one["in_features"])).astype(np.float32) * 0.1,
            random.standard_normal((one["out_features"], 4)).astype(np.float32) * 0.2,
        )
        for one in layout["linears"]
        if one["name"] != layout["lm_head"] and not one["name"].endswith(skip)
    }


def _link(folder: Path, adapter: dict[str, LowRank], work: Path) -> None:
    """Writes `folder`/lora.mnn."""
    work.mkdir()
    weights = json.loads((folder.parent / "weights" / "weights.json").read_text())
    skeleton = folder.parent / "graph" / "skeleton.json"
    link(skeleton, weights, folder, work, Converter(work / "log"), True, adapter=adapter, name="lora.mnn")


GATED = ("q_proj.0", "q_proj.1", "self_attn.o_proj")  # Qwen3.5's, whose attention has a gate


def test_a_split_adapter_has_a_state_of_its_own(built: tuple[Path, Logits], truth: Logits, tmp_path: Path) -> None:
    adapter = _adapter(built[0], GATED)
    _link(built[0], adapter, tmp_path / "work")
    changed: Any = load_reference(built[0].parents[1] / "source")
    with torch.no_grad():
        for name, change in adapter.items():
            changed.get_submodule(name).weight += torch.from_numpy(change.up @ change.down)
    expected = reference_logits(changed, IDS)
    with Engine(built[0], EXACT, timeout=60) as engine:
        engine.prefill(IDS[:10])
        engine.select("lora.mnn")
        assert _error(expected, 39, engine.prefill(IDS[:40])) < 2 * LIMIT
        engine.select("")
        assert _error(truth, 10, engine.step(IDS[10])) < LIMIT
        engine.select("lora.mnn")
        assert _error(expected, 40, engine.step(IDS[40])) < 2 * LIMIT


@pytest.mark.parametrize("name", ["q_proj.1", "o_proj"])
def test_an_adapter_at_a_gated_attention_is_refused(built: tuple[Path, Logits], name: str, tmp_path: Path) -> None:
    """The engine would die in its first call."""
    adapter = {key: value for key, value in _adapter(built[0], ()).items() if key.endswith(f"self_attn.{name}")}
    if not adapter:
        pytest.skip("LFM2's attention has no gate")
    with pytest.raises(StageFailed, match=rf"changes model\.layers\.1\.self_attn\.{name}, which stands at a gated"):
        _link(built[0], adapter, tmp_path / "work")
