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


def test_the_document_has_these_rows_and_no_others() -> None:
    assert list(documented()) == list(FAMILIES)


def test_enough_families_work() -> None:
    working = {row[1] for row in documented().values() if not row[5].startswith("refused")}
    assert len(working) >= 46
    assert working == support.SUPPORTED


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
