"""Vision families on the engine against Hugging Face: drawn pictures through each side's own preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.build.config import subset
from pipeline.build.store import hash_file
from pipeline.graph.towers.families import VISUAL
from pipeline.stages import visual_weights
from pipeline.verify import pictures
from pipeline.verify.picture_checks import product_checks, selfcheck_checks
from tests.graph.product import Silent
from tests.towers.models import CONFIGS, IMAGE, load
from tests.towers.product import build_family, recipe

torch.set_num_threads(1)
LIMIT = 1e-3
# Measured: below 8e-6. In the mixture of experts one token of 53 has more (2.5e-5), which transformers' two ways of
# computing the delta rule differ by as well (4e-6, ten times what they do elsewhere). For MiniCPM-V see its own tests.
NEAR = {"minicpmv4_6": 3e-5, "minicpmv4_7": 3e-5, "qwen3_5_moe": 1e-4}


def test_every_family_is_tested() -> None:
    assert set(VISUAL) == set(CONFIGS)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_logits_of_prompt_and_decode_steps_are_hugging_faces(family: str, tmp_path: Path) -> None:
    product = build_family(family, tmp_path)
    found = pictures.compare(product, load(tmp_path / "source"), tmp_path / "source", IMAGE)
    assert set(found) == {"wide", "tall", "both"}
    errors = {(name, part): error for name, parts in found.items() for part, error in parts.items()}
    assert max(errors.values()) < NEAR.get(family, 1e-5), errors
    weights = json.loads((tmp_path / "visual_weights" / "weights.json").read_text())
    assert all(check.passed for check in product_checks(product, weights, 1))


def test_the_engines_own_positions_are_wrong_and_said_to_be(tmp_path: Path) -> None:
    product = build_family("qwen2_vl", tmp_path, positions="engine")
    found = pictures.compare(product, load(tmp_path / "source"), tmp_path / "source", IMAGE)
    assert found["wide"]["prefill_error"] < 1e-5
    assert found["wide"]["decode_error"] > LIMIT
    assert found["tall"]["prefill_error"] > LIMIT
    checks = {c.name: c for c in selfcheck_checks({"positions": "engine", "pictures": found}, LIMIT)}
    assert all(check.passed for check in checks.values())
    assert "visual.positions=exact" in checks["picture self-check, tall, prefill error"].reason
    exact = selfcheck_checks({"positions": "exact", "pictures": found}, LIMIT)
    assert [check.name for check in exact if not check.passed]  # the same errors would stop an exact product
    notes = json.loads((tmp_path / "visual_graph" / "layout.json").read_text())["notes"]
    assert "visual.positions=engine" in notes[0]


def test_a_quantised_encoder_stays_near(tmp_path: Path) -> None:
    product = build_family("qwen2_vl", tmp_path, bits=8)
    entries = json.loads((tmp_path / "visual_weights" / "weights.json").read_text())["linears"]
    assert {name: entry["bits"] for name, entry in entries.items() if "patch_embed" in name} == {
        "model.visual.patch_embed.proj": 16
    }
    assert {entry["bits"] for name, entry in entries.items() if "patch_embed" not in name} == {8}
    again, stage = tmp_path / "again", visual_weights.STAGE
    again.mkdir()
    inputs = {one.stage: tmp_path / one.stage for one in stage.inputs}
    digests = visual_weights.run(subset(recipe(bits=8), stage.config), inputs, again, Silent())
    assert digests == {"visual.mnn.weight": hash_file(tmp_path / "visual_weights" / "visual.mnn.weight")}
    found = pictures.compare(product, load(tmp_path / "source"), tmp_path / "source", IMAGE)
    assert 1e-5 < found["wide"]["prefill_error"] < 0.1
