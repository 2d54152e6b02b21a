"""The benchmark: every case measured, products interleaved, figures that could be true."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use.bench import Case, Figures, main, measure
from pipeline.use.bench_report import plot, table


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


def test_a_pair_is_one_figure_and_alone_unless_more_is_asked(product: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "rows.json", tmp_path / "speed.svg"
    arguments = [str(product), "-pg", "16,4", "-pg", "8,2", "-t", "1", "-rep", "2", "--loads", "2"]
    assert main([*arguments, "--json", str(out), "--plot", str(picture)]) == 0
    rows = json.loads(out.read_text())
    assert [(row["prompt"], row["output"], row["together"]) for row in rows] == [(16, 4, True), (8, 2, True)]
    assert all(row["both"] > 10 and "prefill" not in row for row in rows)
    drawn = picture.read_text()
    assert "together tok/s" in drawn
    assert "16+4, 1 thr." in drawn


def test_together_is_the_time_of_both(product: Path) -> None:
    """The same seconds: 1 / (p / prefill + n / decode) of a run is what `together` says of it."""
    with Engine(product, {"thread_num": 1}) as engine:
        for _ in range(3):
            apart, together = Figures(), Figures()
            measure(engine, Case(1, 64, 8), apart)
            measure(engine, Case(1, 64, 8, together=True), together)
    seconds = 64 / apart.prefill[0] + 8 / apart.decode[0]
    assert 0.2 < together.both[0] * seconds / 72 < 5
    assert apart.both == together.prefill == together.decode == []


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


@pytest.mark.parametrize("wrong", [["-p", "x"], ["-p", "-3"], ["-r", "0"], ["-pg", "8"], ["-pg", "8,0"]])
def test_wrong_numbers(product: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(product), *wrong])
    assert left.value.code == 2


def test_a_plot_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ending"):
        plot(tmp_path / "speed.txt", [])
    with pytest.raises(UserError, match="cannot be written"):
        plot(tmp_path / "nowhere" / "speed.svg", [])
