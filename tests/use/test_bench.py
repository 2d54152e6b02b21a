"""The benchmark: every case measured, products interleaved, figures that could be true."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from pipeline.use.bench import Case, Figures, main, table


def test_every_case_on_every_product(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    arguments = [str(product), str(product), "-p", "8,16", "-n", "4", "-t", "1", "-r", "2", "--json", str(out)]
    assert main(arguments) == 0
    rows = json.loads(out.read_text())
    assert [(row["prompt"], row["output"], row["threads"]) for row in rows] == [(8, 4, 1)] * 2 + [(16, 4, 1)] * 2
    for row in rows:
        assert row["prefill_low"] <= row["prefill"] <= row["prefill_high"]
        assert 10 < row["decode"] < 1e6
        assert row["peak_memory_mb"] > 20
    text = capsys.readouterr().out
    assert text.count("×") == 4
    assert text.count("\n| tiny") == 4


def test_prefill_or_decode_alone(product: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert main([str(product), "-p", "0,8", "-n", "0,4", "-t", "1", "-r", "1", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert {(row["prompt"], row["output"]): ("prefill" in row, "decode" in row) for row in rows} == {
        (0, 0): (False, False),
        (0, 4): (False, True),
        (8, 0): (True, False),
        (8, 4): (True, True),
    }


def test_the_summary_is_median_and_quartiles() -> None:
    samples = [5.0, 1.0, 9.0, 3.0, 7.0]
    summary = Figures(prefill=samples).summary()
    assert summary["prefill"] == statistics.median(samples)
    assert (summary["prefill_low"], summary["prefill_high"]) == (3.0, 7.0)
    assert "decode" not in summary


def test_ratios_are_to_the_first_product_of_the_same_case() -> None:
    memory = {"load_seconds": 1.0, "peak_memory_mb": 9.0}
    rows = [
        {"product": name, **vars(Case(1, 8, 4)), **Figures([speed], [speed]).summary(), **memory}
        for name, speed in (("a", 100.0), ("b", 150.0))
    ]
    first, second = table(rows).splitlines()[2:]
    assert "×" not in first
    assert second.count("×1.50") == 2


@pytest.mark.parametrize("wrong", [["-p", "x"], ["-p", "-3"], ["-r", "0"]])
def test_wrong_numbers(product: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(product), *wrong])
    assert left.value.code == 2
