"""Every family of `tests/families.py` on the engine against Hugging Face, and docs/families.md against both."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.graph import support
from tests.families import FAMILIES
from tests.graph import coverage
from tests.graph.coverage import LIMIT, documented, run

coverage.quiet()


@pytest.mark.parametrize("row", FAMILIES)
def test_family(row: str, tmp_path: Path) -> None:
    result = run(row, tmp_path)
    assert result.agrees(documented()[row]), f"docs/families.md is stale: now {result.cells}"
    assert max(result.prefill, result.decode) <= LIMIT
    model_type = FAMILIES[row]["type"]
    if result.refused:
        assert model_type in support.REFUSED or model_type in support.SOFTCAP or "ALiBi" in result.refused
    else:
        assert model_type in support.SUPPORTED
        assert result.recurrent == (model_type in support.RECURRENT)


def test_the_document_has_these_rows_and_no_others() -> None:
    assert list(documented()) == list(FAMILIES)


def test_enough_families_work() -> None:
    working = {row[1] for row in documented().values() if not row[5].startswith("refused")}
    assert len(working) >= 46
    assert working == support.SUPPORTED


@pytest.mark.parametrize("row", ["phi3", "phi3_longrope", "glm", "qwen3", "qwen2", "ernie4_5", "internlm3"])
def test_fused_linears_and_interleaved_rope_cost_no_operators(row: str) -> None:
    """What the weights can do, the graph need not: within 15 % of llama's operators, which `test_family` counts."""
    operators = {name: int(cells[4]) for name, cells in documented().items() if cells[4].isdigit()}
    assert operators[row] <= 1.15 * operators["llama"]


@pytest.mark.parametrize("place, wrong", [(1, "gpt2"), (2, "9e-05"), (3, "1e-08"), (4, "78"), (5, "a note")])
def test_a_falsified_cell_is_out_of_date(place: int, wrong: str) -> None:
    result = coverage.Result("llama", 1.1e-6, 8e-7, 77)
    assert result.agrees(result.cells)
    assert not result.agrees((*result.cells[:place], wrong, *result.cells[place + 1 :]))


def test_softcap_is_left_out_with_consent_only(tmp_path: Path) -> None:
    result = run("gemma2_softcap", tmp_path, allow_approximate=True)
    assert not result.refused
    assert result.notes == ("attention softcap left out (5)",)
    assert max(result.prefill, result.decode) > LIMIT, "a softcap of 5 cannot be invisible"


@pytest.mark.parametrize("model_type", sorted(support.REFUSED))
def test_refused_at_plan_time_with_the_reason(model_type: str) -> None:
    with pytest.raises(UserError) as caught:
        support.check_model_type(model_type)
    assert support.REFUSED[model_type] in str(caught.value)
    assert model_type not in support.SUPPORTED
