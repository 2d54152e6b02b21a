"""A model that the engine cannot run exactly (Gemma 2's softcap): refused, or built with consent and measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.mnn.runner import Engine
from tests.e2e.workshop import Result, Workshop
from tests.verify.helpers import write_model

RECIPE = ("model=local", "quant=int8", "verify.length=32", "verify.max_new_tokens=8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gemma2") / "tiny", "gemma2_softcap")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("approximate"))


@pytest.fixture(scope="module")
def exported(shop: Workshop, source: Path) -> Result:
    return shop.export(*RECIPE, f"model.path={source}", "graph.allow_approximate=true", "name=capped")


def test_refused_at_plan_time_without_consent(shop: Workshop, source: Path) -> None:
    result = shop.export(*RECIPE, f"model.path={source}")
    assert result.code == 3
    assert "caps its attention scores (softcap 5)" in result.error
    assert "graph.allow_approximate=true" in result.error
    assert not result.built()


def test_a_named_model_of_such_a_family_is_refused_before_it_is_downloaded(shop: Workshop) -> None:
    result = shop.export("model=gemma-2-2b")
    assert result.code == 3
    assert "caps its attention scores" in result.error


def test_with_consent_the_gate_passes_and_the_manifest_has_the_measured_error(shop: Workshop, exported: Result) -> None:
    assert exported.code == 0, exported.err
    manifest = shop.manifest("capped")
    assert manifest["model"]["approximations"] == ["attention softcap left out (5)"]
    report = manifest["verification"]["report"]
    assert report["passed"]
    checks = {check["name"]: check for check in report["checks"]}
    small = checks["approximation, relative logit error of a small random model"]
    assert small["value"] > 1e-3 and small["limit"] is None, "a softcap of 5 cannot be invisible"
    assert checks["approximation, mean KL divergence of the float32 model"]["value"] > 0
    # All that is not left out is held to the same limit as in any other product.
    rest = checks["architecture self-check, relative logit error"]
    assert rest["value"] < rest["limit"] < small["value"]


def test_a_rope_that_changes_is_limited_to_what_the_table_holds(
    shop: Workshop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Phi-3.5: up to 128 tokens here; beyond, Hugging Face would take the other factors, which no one table can."""
    source = write_model(tmp_path_factory.mktemp("phi3") / "tiny", "phi3_longrope")
    result = shop.export("model=local", f"model.path={source}", "quant=int8", "verify=off", "name=longrope")
    assert result.code == 0, result.err
    told = shop.manifest("longrope")["model"]
    assert told["max_position_embeddings"] == 128
    assert told["notes"] == ["longrope RoPE as it is for sequences of up to 128 tokens"]
    with Engine(shop.product("longrope")) as engine:
        assert engine.product.positions == 128  # chat, run and serve refuse longer prompts by it
