"""`python -m pipeline bench PRODUCT [PRODUCT2]`: prefill and decode speed, medians over interleaved repeats."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.mnn.runner import Engine
from pipeline.use.settings import overrides, positive

# Ids that no vocabulary lacks; which ones does not matter for the speed.
_LOWEST, _STEP = 3, 7


@dataclass(frozen=True)
class Case:
    """One measurement: `prompt` tokens at once, then `output` tokens one by one, on `threads` threads."""

    threads: int
    prompt: int
    output: int


@dataclass
class Figures:
    """Samples of one case on one product, in tokens per second."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Medians and the spread between the quartiles; rates are tokens per second."""
        return {**_quartiles("prefill", self.prefill), **_quartiles("decode", self.decode)}


def _quartiles(name: str, samples: list[float]) -> dict[str, float]:
    if not samples:
        return {}
    ends = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return {f"{name}": ends[1], f"{name}_low": ends[0], f"{name}_high": ends[2]}


def measure(engine: Engine, case: Case, figures: Figures) -> None:
    """One repeat. Only the engine's own calls count, timed inside its process."""
    vocabulary = engine.vocab_size - _LOWEST
    ids = [_LOWEST + (_STEP * number) % vocabulary for number in range(max(1, case.prompt))]
    engine.stats.pop("prefill", None)
    engine.prefill(ids)
    if case.prompt:
        figures.prefill.append(case.prompt / engine.stats["prefill"])
    if case.output:
        engine.stats.pop("step", None)
        for number in range(case.output):
            engine.step(ids[number % len(ids)])
        figures.decode.append(case.output / engine.stats["step"])


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of results: for every thread count all products are loaded, and repeats alternate between them."""
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        cases = [Case(threads, prompt, output) for prompt in options.prompt for output in options.output]
        with ExitStack() as stack:
            keys = {**overrides(options.assignments), "thread_num": threads}
            engines = [stack.enter_context(Engine(product, keys, options.timeout)) for product in options.products]
            for case in cases:
                rows += _case_rows(engines, case, options)
    return rows


def _case_rows(engines: list[Engine], case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    figures = [Figures() for _ in engines]
    for engine in engines:
        for _ in range(options.warm_up):
            measure(engine, case, Figures())
    for _ in range(options.repeat):
        for engine, samples in zip(engines, figures, strict=True):
            measure(engine, case, samples)
    rows = []
    for product, engine, samples in zip(options.products, engines, figures, strict=True):
        memory = {"load_seconds": engine.stats["load"], "peak_memory_mb": engine.peak_memory() / 1e6}
        rows.append({"product": str(product), **vars(case), **samples.summary(), **memory})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; beside every product but the first its ratio to the first."""
    head = "| product | threads | prompt | output | prefill tok/s | decode tok/s | load s | peak MB |"
    lines = [head, "| --- | --: | --: | --: | --: | --: | --: | --: |"]
    first: dict[tuple[int, int, int], dict[str, Any]] = {}
    for row in rows:
        base = first.setdefault((row["threads"], row["prompt"], row["output"]), row)
        cells = [Path(row["product"]).name, row["threads"], row["prompt"], row["output"]]
        cells += [_speed(row, base, "prefill"), _speed(row, base, "decode")]
        cells += [f"{row['load_seconds']:.2f}", f"{row['peak_memory_mb']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _speed(row: dict[str, Any], base: dict[str, Any], name: str) -> str:
    if name not in row:
        return "–"
    ratio = "" if row is base else f" ×{row[name] / base[name]:.2f}"
    return f"{row[name]:.1f} ({row[name + '_low']:.1f}–{row[name + '_high']:.1f}){ratio}"


def main(arguments: Sequence[str]) -> int:
    """Prints the table; `--json` writes the rows."""
    options = _parse(arguments)
    rows = run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    print(f"median (quartiles) of {options.repeat} interleaved repeats", file=sys.stderr)
    return 0


def _numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if any(value < 0 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: numbers from 0 on, separated by commas")
    return values


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline bench", description=__doc__)
    parser.add_argument("products", nargs="+", type=Path, help="one product, or several to compare")
    parser.add_argument("-p", "--prompt", type=_numbers, default=[128], help="prompt lengths, e.g. 32,128 (0: none)")
    parser.add_argument("-n", "--output", type=_numbers, default=[32], help="output lengths (0: none)")
    parser.add_argument("-t", "--threads", type=_numbers, default=[2], help="thread counts")
    parser.add_argument("-r", "--repeat", type=positive, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="repeats that do not count")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(list(arguments))
