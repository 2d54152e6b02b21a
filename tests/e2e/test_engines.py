"""A target's floor is proved by running: exports for older engines, each on the wheels of those versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.mnn.versions.environment import Unreachable, interpreter
from tests.e2e.workshop import Result, Workshop
from tests.verify.helpers import write_model

VERSIONS = ("3.4.0", "3.5.0", "3.6.0")
FLOORS = {"mnn-3.4": "3.4.0", "mnn-3.5": "3.5.0", "mnn-3.6.0": "3.6.0"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def recipe(shop: Workshop) -> list[str]:
    """A tiny llama for three targets. Random weights are no match for the gate's usual limits of 8 bits."""
    try:
        for version in VERSIONS:
            interpreter(version, print)
    except Unreachable as error:
        pytest.skip(str(error))
    model = write_model(shop.root / "llama")
    limits = "verify.thresholds.8={max_kld: 0.05, min_top1: 0.9}"
    return ["model=local", f"model.path={model}", "quant=int8", f"target={','.join(FLOORS)}", limits]


@pytest.fixture(scope="module")
def exported(shop: Workshop, recipe: list[str]) -> Result:
    return shop.export(*recipe)


@pytest.fixture(scope="module")
def verified(shop: Workshop, recipe: list[str], exported: Result) -> Result:
    assert exported.code == 0, exported.out + exported.err
    return shop.doit("verify", f"engines={','.join(VERSIONS)}", *recipe)


def _manifests(shop: Workshop) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (shop.root / "artifacts").glob("*/manifest.json")]
    return {manifest["recipe"]["target"]: manifest for manifest in found}


def test_every_floor_holds_and_is_in_the_manifest(shop: Workshop, verified: Result) -> None:
    assert verified.code == 0, verified.out + verified.err
    manifests = _manifests(shop)
    assert set(manifests) == set(FLOORS)
    for target, floor in FLOORS.items():
        assert manifests[target]["engine"] == {"oldest": floor, "built_with": ["MNN_BUILD_LLM"]}
        for version in VERSIONS:
            row = manifests[target]["engines"][version]
            assert (row["verdict"] == "right") == (version >= floor), (target, version, row)
        assert f"made for engines from {floor} on" in verified.out


def test_the_export_is_still_a_no_op_afterwards(shop: Workshop, recipe: list[str], verified: Result) -> None:
    again = shop.export(*recipe)
    assert again.code == 0, again.err
    assert again.built() <= {"product"}  # the head of the table of a sweep
    assert all("engines" in manifest for manifest in _manifests(shop).values())


def test_a_product_is_named_by_its_folder_and_a_broken_floor_is_an_error(shop: Workshop, verified: Result) -> None:
    """The product for 3.6.0 with a manifest that claims 3.5.0: the claim is found out by running."""
    paths = (shop.root / "artifacts").glob("*/manifest.json")
    path = next(path for path in paths if json.loads(path.read_text())["recipe"]["target"] == "mnn-3.6.0")
    manifest = json.loads(path.read_text())
    manifest["config"]["target"]["engine"] = "3.5.0"
    path.write_text(json.dumps(manifest))
    result = shop.doit("verify", "engines=3.5.0,3.6.0", str(path.parent.relative_to(shop.root)))
    assert result.code == 1
    assert "3.5.0" in result.error
    assert "does not run it right" in result.error
    assert "3.6.0 (" not in result.error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["engines=3.6"], "'3.6' is not an engine version"),
        (["engines=3.6.1", "artifacts/none"], "there is no folder artifacts/none"),
        (["engines=3.6.1", "artifacts", "model=gpt2"], "say which product"),
    ],
)
def test_wrong_requests(shop: Workshop, verified: Result, words: list[str], said: str) -> None:
    folder = next(path.parent for path in (shop.root / "artifacts").glob("*/manifest.json"))
    more = [str(Path("artifacts") / folder.name)] if len(words) == 1 else []
    result = shop.doit("verify", *words, *more)
    assert result.code == 3
    assert said in result.error


def test_a_product_that_was_never_compared(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"config": {}, "stages": {}}))
    result = shop.doit("verify", "engines=3.6.1", str(tmp_path))
    assert result.code == 3
    assert "has no reference logits: made with verify=off" in result.error
