"""How fast a product decodes and prefills beside another of the same model, say one of MNN's own exporter.

    python benchmarks/speed.py artifacts/smollm2-135m-int4 OTHER [--runs 9] [--least 1.0]

Both are loaded at once and take turns, so that what else the machine does falls on both; every run gives one ratio, and
the median of the ratios counts. Both run with the runtime settings that their folders ship with, but the thread count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.mnn.runner import Engine
from pipeline.use.bench import Case, Figures, measure


@dataclass(frozen=True)
class Contest:
    """Tokens per second of each run. `ours` and `theirs` have one sample per run, in the same order."""

    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median over the runs of ours / theirs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    def line(self, name: str) -> str:
        """One row of the report."""
        first, second = statistics.median(self.ours), statistics.median(self.theirs)
        ratios = sorted(a / b for a, b in zip(self.ours, self.theirs, strict=True))
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        return f"{name:<16} {first:8.1f} {second:8.1f} tok/s   x{self.ratio:.3f}  (runs: {spread})"


def compete(ours: Path, theirs: Path, case: Case, runs: int) -> tuple[Contest, Contest]:
    """Prefill and decode; the first run of each product warms up and does not count."""
    samples = [Figures(), Figures()]
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(one, {"thread_num": case.threads}, 600)) for one in (ours, theirs)]
        for engine in engines:
            measure(engine, case, Figures())
        for _ in range(runs):
            for engine, figures in zip(engines, samples, strict=True):
                measure(engine, case, figures)
    return Contest(samples[0].prefill, samples[1].prefill), Contest(samples[0].decode, samples[1].decode)


def operators(product: Path) -> str:
    """What the graph consists of, where the product ships its JSON."""
    path = product / "llm.mnn.json"
    if not path.is_file():
        return "graph unknown (no llm.mnn.json)"
    kinds = Counter(operator["type"] for operator in json.loads(path.read_text("utf-8"))["oplists"])
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6))
    return f"{sum(kinds.values())} operators: {listed}, ..."


def main(arguments: Sequence[str]) -> int:
    """0 if both ratios reach --least."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path)
    parser.add_argument("theirs", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--least", type=float, default=0.0, help="smallest ratio that is no failure")
    options = parser.parse_args(list(arguments))
    case = Case(options.threads, options.prompt, options.output)
    prefill, decode = compete(options.ours, options.theirs, case, options.runs)
    for product in (options.ours, options.theirs):
        print(f"{product}: {operators(product)}")
    print(prefill.line(f"prefill of {case.prompt}"))
    print(decode.line(f"decode of {case.output}"))
    return 0 if min(prefill.ratio, decode.ratio) >= options.least else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
