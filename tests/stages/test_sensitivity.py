"""Sensitivities are an action of their own: what is in its key, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.build.nodes import Node, build_graph
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.stages.registry import stages

BUDGETS = ["quant.target_bpw=5.0", "quant.target_bpw=6.5", "quant.target_bytes=80000000", "quant.max_kld=0.3"]


def nodes(*overrides: str) -> dict[str, Node]:
    composed = compose(["model=smollm2-135m", *overrides], [SHIPPED], Path("/w"))
    (product,) = build_graph([one.config for one in composed], stages(), Path("/w")).products
    return dict(product.nodes)


@pytest.mark.parametrize("algorithm", ["gptq", "wmse", "awq"])
def test_another_budget_or_algorithm_measures_nothing_again(algorithm: str) -> None:
    found = [nodes("quant=auto", f"quant.algorithm={algorithm}", budget) for budget in BUDGETS]
    assert len({one["sensitivity"].id for one in found} | {nodes("quant=auto")["sensitivity"].id}) == 1
    assert len({one["weights"].id for one in found}) == len(BUDGETS)
    assert all("sensitivity" in one["places"].inputs and "places" in one["weights"].inputs for one in found)


@pytest.mark.parametrize("change", ["quant.calibration.seed=1", "quant.symmetric=true", "quant.scale_bits=32"])
def test_what_the_figures_depend_on_measures_again(change: str) -> None:
    assert nodes("quant=auto", change)["sensitivity"].id != nodes("quant=auto")["sensitivity"].id


def test_no_budget_no_sensitivities_and_no_calibration_no_text() -> None:
    assert not nodes("quant=int4").keys() & {"selftext", "statistics", "sensitivity", "gptq", "awq"}
    assert "sensitivity" not in nodes("quant=int4-gptq")
    own = "quant.calibration.text=self"
    assert "selftext" not in nodes("quant=int4", own) and "selftext" not in nodes("quant=int4-gptq")
    readers = {"int4-gptq": "gptq", "int4-wmse": "statistics", "int4-awq": "awq", "auto": "sensitivity"}
    for quant, stage in readers.items():
        assert "selftext" in nodes(f"quant={quant}", own)[stage].inputs


def test_a_calibration_file_counts_by_its_content(tmp_path: Path) -> None:
    from pipeline.build.key import by_content

    keys = []
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
        config = nodes("quant=int4-wmse", f"quant.calibration.text={tmp_path / name}")["statistics"].config
        keys.append(by_content(config))
    assert keys[0] == keys[1] != keys[2]
