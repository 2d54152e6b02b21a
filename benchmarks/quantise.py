"""How fast weights are quantised and packed: GB of bfloat16 input a second, by bits, block, algorithm and threads.

The last column counts CPU seconds instead, which other programs on the same machine disturb less.

    python benchmarks/quantise.py [--threads 1 2] [--megabytes 128]
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.weights import kernels, plain
from pipeline.weights.matrix import quantise_rows
from pipeline.weights.plain import Loops
from pipeline.weights.precision import Precision

COLUMNS = 4096
ROWS = 512
CASES = (
    ("rtn", 4, 64, False), ("rtn", 4, 32, False), ("rtn", 4, 128, True), ("rtn", 8, 64, False), ("rtn", 3, 64, False),
    ("mse", 4, 64, False), ("hqq", 4, 64, False),
)


def speed(precision: Precision, loops: Loops, threads: int, megabytes: int) -> tuple[float, float]:
    """GB of bfloat16 a second and a CPU second, best of five; each thread quantises row blocks of 4 MB."""
    weights = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(ml_dtypes.bfloat16)
    count = max(threads, megabytes * 1_000_000 // weights.nbytes)
    best = busy = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            begun, before = time.perf_counter(), time.process_time()
            list(pool.map(lambda _: quantise_rows(weights, precision, "benchmark", loops), range(count)))
            best, busy = min(best, time.perf_counter() - begun), min(busy, time.process_time() - before)
    size = count * weights.nbytes / 1e9
    return size / best, size / busy


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--megabytes", type=int, default=128)
    arguments = parser.parse_args()
    print("| algorithm | bits | block | symmetric | loops | threads | GB/s | GB per CPU s |\n|" + " --- |" * 8)
    for algorithm, bits, block, symmetric in CASES:
        precision = Precision(bits, block, symmetric, algorithm=algorithm)
        for name, loops in (("numba", kernels), ("numpy", plain)):
            for threads in arguments.threads:
                size = arguments.megabytes if algorithm == "rtn" else 8
                wall, cpu = speed(precision, loops, threads, size)
                case = f"| {algorithm} | {bits} | {block} | {symmetric} | {name} | {threads}"
                print(f"{case} | {wall:.2f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
