"""The parity table of the documentation: not older than what it is about, and it says what is true of one row."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.tokenizer.parity.table import HEAD, fingerprint, main, row

from . import tiny
from .test_real import MORE, REAL

PAGE = Path(__file__).parents[2] / "docs" / "tokenizers.md"


def _rows() -> dict[str, list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    lines = text[text.index(HEAD) :].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {line[0]: line[1:] for line in cells}


def test_table_is_about_the_present_corpus() -> None:
    found = re.search(r"<!-- compared: ([0-9a-f]{16}) -->", PAGE.read_text(encoding="utf-8"))
    assert found is not None and found.group(1) == fingerprint(), "run pipeline.tokenizer.parity.table again"


def test_rows_are_tested_tokenizers() -> None:
    assert {"smollm2", "llama2", "gemma3"} <= set(_rows()) <= {"smollm2", "all-MiniLM-L6-v2", *REAL, *MORE}


def test_rows_claim_what_the_tests_check() -> None:
    for name, cells in _rows().items():
        _, _, texts, differ, explained, decode, _, prompts, _ = cells
        assert texts == "20,000" and differ == explained and (decode, prompts) == ("0", "0"), name
        assert (explained != "0") == (name == "all-MiniLM-L6-v2"), name  # characters of private use


def test_a_row_is_measured(tmp_path: Path) -> None:
    folder = tiny.save(tiny.llama2(), tmp_path / "small", {"eos_token": "</s>"})
    assert row(folder, 60) == "| small | BPE | 900 | 60 | 0 | 0 | 0 | 0 | 0 | 0 |"


def test_a_refused_tokenizer_says_why(tmp_path: Path, capsys: object) -> None:
    (tmp_path / "none").mkdir()
    assert main([str(tmp_path / "none")]) == 0
    assert "refused: the model has no tokenizer.json" in capsys.readouterr().out  # type: ignore[attr-defined]
