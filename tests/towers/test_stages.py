"""Encoders as stages of their own: what a change of the recipe rebuilds, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.build.nodes import build_graph
from pipeline.errors import UserError
from pipeline.graph.towers import families
from pipeline.recipe import modalities
from pipeline.stages.registry import stages
from pipeline.stages.towers.forgotten import refuse_forgotten
from tests.towers.models import CONFIGS
from tests.towers.product import recipe

TOWER = {"visual_graph", "visual_weights", "visual_link"}
TEXT = {"graph", "weights", "link", "embedding"}


def _ids(tmp_path: Path, changes: dict[str, dict[str, Any]]) -> dict[str, str]:
    whole = recipe()
    whole["name"] = "x"
    for section, values in changes.items():
        whole[section] |= values
    (product,) = build_graph([whole], stages(), tmp_path).products
    return {name: node.id for name, node in product.nodes.items()}


def test_text_bits_do_not_rebuild_the_encoder_nor_the_other_way_round(tmp_path: Path) -> None:
    base = _ids(tmp_path, {})
    assert set(base) >= TOWER | TEXT
    text = _ids(tmp_path, {"quant": {"bits": 4, "block": 64}})
    assert {name for name in TOWER | TEXT if base[name] != text[name]} == {"weights", "embedding", "link"}
    visual = _ids(tmp_path, {"visual": {"bits": 8}})
    assert {name for name in TOWER | TEXT if base[name] != visual[name]} == {"visual_weights", "visual_link"}


def test_no_encoder_no_stages(tmp_path: Path) -> None:
    assert not TOWER & set(_ids(tmp_path, {"model": {"modalities": []}}))
    assert not TOWER & set(_ids(tmp_path, {"visual": {"mode": "off"}}))


def test_a_local_folder_says_itself_what_it_has(tmp_path: Path) -> None:
    config = {"model": {"hub": "local", "path": str(tmp_path), "modalities": []}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", **CONFIGS["qwen2_vl"]}))
    modalities.complete(config)
    assert config["model"]["modalities"] == ["visual"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    modalities.complete(config)
    assert config["model"]["modalities"] == []


def test_an_encoder_that_the_recipe_forgets_is_no_text_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", "vision_config": {}}))
    with pytest.raises(UserError, match=r"model\.modalities=\[visual\]"):
        refuse_forgotten(tmp_path, {"model": {"modalities": []}, "visual": {"mode": "auto"}})
    refuse_forgotten(tmp_path, {"model": {"modalities": []}, "visual": {"mode": "off"}})


@pytest.mark.parametrize(("kind", "reason"), [("paligemma", "both directions"), ("llava", "no adapter")])
def test_families_without_an_adapter_are_refused_with_the_reason(kind: str, reason: str) -> None:
    config = {"model_type": kind, "vision_config": {}}
    with pytest.raises(UserError, match=reason):
        families.check(config, {"visual": True})
    families.check(config, {"visual": False})
