"""A model with a recurrent state from the command line: it passes the gate; what it cannot have is refused before."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.mnn.runner import Engine
from tests.e2e.workshop import Workshop
from tests.verify.helpers import write_model

RECIPE = ("model=local", "quant=int8", "verify.length=32", "verify.max_new_tokens=8", "name=recurrent")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("lfm2") / "tiny", "lfm2")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("target=mnn-3.6.0", "engine 3.6.0 is older than 3.6.1"),
        ("target.runtime.speculative_type=lookahead", "speculative_type: drafted tokens"),
    ],
)
def test_refused_before_any_work(bench: Workshop, source: Path, override: str, reason: str) -> None:
    result = bench.export(*RECIPE, f"model.path={source}", override)
    assert result.code == 3
    assert reason in result.error
    assert not result.built()


def test_the_gate_passes_and_the_state_is_the_products(bench: Workshop, source: Path) -> None:
    result = bench.export(*RECIPE, f"model.path={source}")
    assert result.code == 0, result.out + result.err
    checks = {check["name"]: check for check in bench.manifest("recurrent")["verification"]["report"]["checks"]}
    assert checks["architecture self-check, relative logit error"]["value"] < 1e-5
    assert checks["top-1 agreement"]["value"] >= 0.9
    with Engine(bench.product("recurrent")) as engine:
        assert engine.product.recurrent
        assert engine.generate([65], 6) == engine.generate([65], 6)
