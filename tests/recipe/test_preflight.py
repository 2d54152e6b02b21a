"""Estimates: near what is known, and a refusal before a disk is full."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.errors import UserError
from pipeline.recipe import preflight
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.recipe.preflight import estimate, refuse_full_disk
from pipeline.recipe.schema import Recipe


def recipe(*overrides: str) -> Recipe:
    (composed,) = compose(overrides, [SHIPPED], Path("/w"))
    return composed.recipe


def guess(*overrides: str, size: int | None = None) -> preflight.Estimate:
    found = estimate(recipe(*overrides), size)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("overrides", "measured"),
    [(["embedding=tied"], 90.1e6), (["quant=fp16", "embedding=tied"], 269e6), (["embedding=separate"], 146.7e6)],
)
def test_product_sizes_of_smollm2_are_within_a_fifth(overrides: list[str], measured: float) -> None:
    """90.1 MB was measured; the others are its 134.5 M parameters and 49,152 × 576 embedding at two bytes each."""
    assert guess(*overrides).product == pytest.approx(measured, rel=0.2)


def test_a_hub_model_must_be_downloaded_and_a_local_one_not() -> None:
    assert guess("model=qwen2-7b").download == pytest.approx(15.2e9, rel=0.02)
    assert guess("model=qwen2-7b", size=15_231_000_000).download == 0
    assert guess().download == 0


def test_fewer_bits_cost_less_disk() -> None:
    sizes = [guess("model=qwen2-7b", f"quant={quant}").product for quant in ("int4", "int8", "fp16")]
    assert sizes == sorted(sizes) and sizes[0] < 0.4 * sizes[2]


def test_memory_stays_flat_and_the_reference_is_counted_only_if_it_is_loaded() -> None:
    assert guess("model=qwen2-7b").memory <= 1.5e9
    assert guess("model=qwen2-7b").reference_memory == 0  # 28 GB in float32: beyond verify.reference_memory_gb
    assert guess("model=qwen2-0.5b").reference_memory == pytest.approx(0.494e9 * 4 * 1.15 + (200 << 20), rel=0.01)
    assert guess("model=qwen2-0.5b", "verify=off").reference_memory == 0


def test_calibrated_algorithms_take_longer() -> None:
    assert guess("model=qwen2-0.5b", "quant.algorithm=gptq").seconds > guess("model=qwen2-0.5b").seconds + 100


def test_a_local_model_is_guessed_from_its_files_only() -> None:
    local = ["model=local", "model.path=/m"]
    assert estimate(recipe(*local)) is None
    assert guess(*local, size=2_000_000_000).product == pytest.approx(1e9 * 4.5 / 8, rel=0.25)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 10 << 30))
    with pytest.raises(UserError, match=r"qwen2-7b-int4 needs about \d+\.\d GB of disk, and .* has 10\.0 GB free"):
        refuse_full_disk([(recipe("model=qwen2-7b"), None)], tmp_path / "not" / "yet" / "there")
    refuse_full_disk([(recipe(), None)], tmp_path)


def test_the_recipes_of_a_sweep_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = estimate(recipe("model=qwen2-0.5b"))
    assert one is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, one.disk + (512 << 20)))
    refuse_full_disk([(recipe("model=qwen2-0.5b"), None)], tmp_path)
    with pytest.raises(UserError, match=r"qwen2-0\.5b-int4, qwen2-0\.5b-int8 needs about"):
        refuse_full_disk(
            [(recipe("model=qwen2-0.5b"), None), (recipe("model=qwen2-0.5b", "quant=int8"), None)], tmp_path
        )
