"""The rows of `bench` for people: a Markdown table and a plot."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Row = Mapping[str, Any]
_COLUMNS = {"prefill": "prefill tok/s", "decode": "decode tok/s", "both": "together tok/s"}
_FORMATS = (".svg", ".png", ".pdf")


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown; beside every product but the first its ratio to the first."""
    used = [name for name in _COLUMNS if name != "both" or any("both" in row for row in rows)]
    head = ["product", "threads", "prompt", "output", *(_COLUMNS[name] for name in used), "load s", "peak MB"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --: |" * (len(head) - 1)]
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        base = first.setdefault(_case(row), row)
        cells = [Path(row["product"]).name, row["threads"], row["prompt"], row["output"]]
        cells += [_speed(row, base, name) for name in used]
        cells += [f"{row['load_seconds']:.2f}", f"{row['peak_memory_mb']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Bars of the medians with quartiles, one panel for each kind of speed, one colour for each product.

    Raises UserError without matplotlib, and for a file that cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise UserError(f"--plot {path}: the ending says the format", f"use {', '.join(_FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib", "pip install 'mnn-pipeline[bench]'")
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none"})
    from matplotlib import pyplot

    names = [name for name in _COLUMNS if any(name in row for row in rows)]
    figure, panels = pyplot.subplots(1, len(names) or 1, figsize=(5 * (len(names) or 1), 4), squeeze=False)
    for axes, name in zip(panels[0], names, strict=False):
        _panel(axes, name, [row for row in rows if name in row])
    figure.tight_layout()
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "give another file") from None
    finally:
        pyplot.close(figure)


def _panel(axes: Any, name: str, rows: Sequence[Row]) -> None:
    """Groups of bars: a group for each case, a bar for each product in it."""
    cases = list(dict.fromkeys(_case(row) for row in rows))
    products = list(dict.fromkeys(str(row["product"]) for row in rows))
    width = 0.8 / len(products)
    for number, product in enumerate(products):
        mine = [row for row in rows if row["product"] == product]
        places = [cases.index(_case(row)) + (number - (len(products) - 1) / 2) * width for row in mine]
        spread = [[row[name] - row[f"{name}_low"] for row in mine], [row[f"{name}_high"] - row[name] for row in mine]]
        axes.bar(places, [row[name] for row in mine], width, yerr=spread, capsize=3, label=Path(product).name)
    axes.set_xticks(range(len(cases)), [f"{prompt}+{output}, {threads} thr." for threads, prompt, output, _ in cases])
    axes.set_ylabel(_COLUMNS[name])
    axes.legend()


def _case(row: Row) -> tuple[Any, ...]:
    return row["threads"], row["prompt"], row["output"], row["together"]


def _speed(row: Row, base: Row, name: str) -> str:
    if name not in row:
        return "–"
    ratio = "" if row is base else f" ×{row[name] / base[name]:.2f}"
    return f"{row[name]:.1f} ({row[name + '_low']:.1f}–{row[name + '_high']:.1f}){ratio}"
