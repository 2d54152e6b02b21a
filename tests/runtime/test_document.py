"""docs/runtime.md says what the code says."""

from __future__ import annotations

from pipeline.recipe.conf import ROOT
from pipeline.runtime.document import document
from pipeline.runtime.keys import KEYS
from pipeline.runtime.retired import RETIRED
from pipeline.runtime.unseen import UNSEEN


def test_the_page_is_not_stale() -> None:
    page = (ROOT / "docs" / "runtime.md").read_text("utf-8")
    assert page == document(), "run: python -m pipeline.runtime.document > docs/runtime.md"


def test_every_key_has_one_row_of_six_cells() -> None:
    page, _, rest = document().partition("## Keys whose effect is not seen here")
    older = rest.partition("## Older names")[2]
    rows = [line for line in [*page.splitlines(), *older.splitlines()] if line.startswith("| `")]
    named = [row.split("`")[1] for row in rows]
    assert sorted(named) == sorted([*KEYS, *RETIRED])
    for row in rows[: len(KEYS)]:
        assert row.replace("\\|", "").count("|") == 7


def test_what_is_not_seen_is_named_with_its_reason() -> None:
    section = document().partition("## Keys whose effect is not seen here")[2].partition("## ")[0]
    for name, reason in UNSEEN.items():
        assert any(f"`{name}`" in line and reason in line for line in section.splitlines()), name
