"""`python -m pipeline bench PRODUCT [PRODUCT2]`: load, prefill and decode speed, medians over interleaved repeats."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use.bench_report import plot, table
from pipeline.use.settings import check_keys, overrides, positive

# Ids that no vocabulary lacks; which ones does not matter for the speed.
_LOWEST, _STEP = 3, 7


@dataclass(frozen=True)
class Case:
    """One measurement: `prompt` tokens at once, then `output` tokens one by one, on `threads` threads.

    together: the two as one figure, (prompt + output) / (their seconds), as an answer of that size takes.
    """

    threads: int
    prompt: int
    output: int
    together: bool = False


@dataclass
class Figures:
    """Samples of one case on one product, in tokens per second."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Medians and the spread between the quartiles; rates are tokens per second."""
        return {name: value for part in ("prefill", "decode", "both") for name, value in self._quartiles(part)}

    def _quartiles(self, name: str) -> Iterator[tuple[str, float]]:
        low, median, high = quartiles(getattr(self, name)) or (None, None, None)
        if low is not None and median is not None and high is not None:
            yield from ((name, median), (f"{name}_low", low), (f"{name}_high", high))


def quartiles(samples: Sequence[float]) -> tuple[float, float, float] | None:
    """First quartile, median and third quartile; None without samples."""
    if not samples:
        return None
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, median, high


def measure(engine: Engine, case: Case, figures: Figures) -> None:
    """One repeat. Only the engine's own calls count, timed inside its process."""
    vocabulary = engine.vocab_size - _LOWEST
    ids = [_LOWEST + (_STEP * number) % vocabulary for number in range(max(1, case.prompt))]
    engine.stats.pop("prefill", None)
    engine.stats.pop("step", None)
    engine.prefill(ids)
    for number in range(case.output):
        engine.step(ids[number % len(ids)])
    prefill, decode = engine.stats["prefill"], engine.stats.get("step", 0.0)
    if case.together:
        figures.both.append((case.prompt + case.output) / (prefill + decode))
        return
    if case.prompt:
        figures.prefill.append(case.prompt / prefill)
    if case.output:
        figures.decode.append(case.output / decode)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of results: for every thread count all products are loaded, and repeats alternate between them."""
    rows: list[dict[str, Any]] = []
    for product in options.products:
        check_keys(product)
    for threads in options.threads:
        with ExitStack() as stack:
            keys = {**overrides(options.assignments), "thread_num": threads}
            engines = [stack.enter_context(Engine(product, keys, options.timeout)) for product in options.products]
            loads = _loads(engines, options.loads)
            for case in _cases(options, threads):
                rows += _case_rows(engines, case, options, loads)
    return rows


def _cases(options: argparse.Namespace, threads: int) -> Iterator[Case]:
    for prompt, output in itertools.product(options.prompt, options.output):
        yield Case(threads, prompt, output)
    for prompt, output in options.pairs:
        yield Case(threads, prompt, output, together=True)


def _loads(engines: Sequence[Engine], count: int) -> list[list[float]]:
    """Seconds of `count` loads of each product, each in a new process, in turns. The first was made already."""
    samples = [[engine.stats["load"]] for engine in engines]
    for _ in range(count - 1):
        for engine, seconds in zip(engines, samples, strict=True):
            engine.close()
            engine.load()
            seconds.append(engine.stats["load"])
    return samples


def _case_rows(
    engines: Sequence[Engine], case: Case, options: argparse.Namespace, loads: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    figures = [Figures() for _ in engines]
    for engine in engines:
        for _ in range(options.warm_up):
            measure(engine, case, Figures())
    for _ in range(options.repeat):
        for engine, samples in zip(engines, figures, strict=True):
            measure(engine, case, samples)
    rows = []
    for product, engine, samples, seconds in zip(options.products, engines, figures, loads, strict=True):
        memory = {"load_seconds": statistics.median(seconds), "peak_memory_mb": engine.peak_memory() / 1e6}
        rows.append({"product": str(product), **vars(case), **samples.summary(), **memory, "repeats": options.repeat})
    return rows


def main(arguments: Sequence[str]) -> int:
    """Prints the table; `--json` writes the rows, `--plot` draws them."""
    options = _parse(arguments)
    rows = run(options)
    if options.json is not None:
        _write(options.json, json.dumps(rows, indent=1) + "\n")
    if options.plot is not None:
        plot(options.plot, rows)
    print(table(rows))
    print(f"median (quartiles) of {options.repeat} interleaved repeats", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "give another file") from None


def _numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if any(value < 0 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: numbers from 0 on, separated by commas")
    return values


def _pair(text: str) -> tuple[int, int]:
    values = _numbers(text)
    if len(values) != 2 or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a prompt's and an output's length, such as 512,128")
    return values[0], values[1]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline bench", description=__doc__)
    parser.add_argument("products", nargs="+", type=Path, help="one product, or several to compare")
    parser.add_argument("-p", "--prompt", type=_numbers, metavar="N,…", help="prompt lengths (0: none); default 128")
    parser.add_argument("-n", "--output", type=_numbers, metavar="N,…", help="output lengths (0: none); default 32")
    parser.add_argument("-pg", "--pair", type=_pair, action="append", default=[], dest="pairs", metavar="P,N",
                        help="a prompt and an output as one figure; may be repeated")  # fmt: skip
    parser.add_argument("-t", "--threads", type=_numbers, default=[2], metavar="N,…", help="thread counts")
    parser.add_argument("-r", "-rep", "--repeat", type=positive, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="repeats that do not count")
    parser.add_argument("--loads", type=positive, default=3, help="loads of each product, for the median")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture, .svg, .png or .pdf (needs matplotlib)")
    options = parser.parse_args(list(arguments))
    asked_nothing = options.prompt is None and options.output is None
    only_pairs = asked_nothing and options.pairs
    options.prompt = ([] if only_pairs else [128]) if options.prompt is None else options.prompt
    options.output = ([] if only_pairs else [32]) if options.output is None else options.output
    return options
