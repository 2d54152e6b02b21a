"""What each quantisation costs and gains, measured on the engine: a table, a JSON file and a plot.

    python benchmarks/quality.py smollm2-135m [--quants int4 int4-wmse …] [--sequences 4] [--length 512]

KL divergence, top-1 agreement and perplexity are against the Hugging Face model in float32, on prose that no
calibration sees; the products are built by `doit export` (without its gate) and run as they ship.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.mnn.runner import Engine  # noqa: E402
from pipeline.verify.metrics import Logits, compare_logits, log_softmax  # noqa: E402

QUANTS = ("fp16", "int8", "source", "int4", "int4-mse", "int4-hqq", "int4-wmse", "int4-gptq", "auto")
COLUMNS = ("quant", "MB", "bpw", "KLD", "KLD p99", "top-1", "perplexity", "decode tok/s", "quantise s")


def main() -> None:
    """Build, measure, write."""
    arguments = _arguments()
    folder = ROOT / "artifacts" / ".benchmarks" / arguments.model
    folder.mkdir(parents=True, exist_ok=True)
    first = _build(arguments.model, arguments.quants[0], arguments.overrides)
    ids = _sequences(first[0], arguments.sequences, arguments.length)
    reference = _reference(folder, arguments.model, arguments.overrides, ids)
    rows = []
    for quant in arguments.quants:
        product, seconds = _build(arguments.model, quant, arguments.overrides)
        rows.append({"quant": quant, "quantise s": seconds, **_measure(product, ids, reference, arguments.dynamic)})
        print(_line(rows[-1]), flush=True)
    text = "\n".join([_head(), *(_line(row) for row in rows)])
    (folder / "quality.md").write_text(f"{text}\n", encoding="utf-8")
    (folder / "quality.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (folder / "quality.svg").write_text(_plot(rows), encoding="utf-8")
    print(f"written to {folder.relative_to(ROOT)}")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quants", nargs="+", default=list(QUANTS))
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dynamic", type=int, default=2, help="the engine's dynamic_option")
    parser.add_argument("overrides", nargs="*", help="further recipe overrides, key=value")
    return parser.parse_intermixed_args()


def _build(model: str, quant: str, overrides: Sequence[str]) -> tuple[Path, float]:
    """The product's folder, and the seconds that the command took."""
    name = f"benchmark-{model}-{quant}"
    begun = time.monotonic()
    doit = str(Path(sys.executable).with_name("doit"))
    command = [doit, "export", f"model={model}", f"quant={quant}", f"name={name}", "verify=off", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return ROOT / "artifacts" / name, time.monotonic() - begun


def _sequences(product: Path, count: int, length: int) -> list[list[int]]:
    """Runs of token ids spread over the evaluation text."""
    from pipeline.verify.text import evaluation_text

    with Engine(product) as engine:
        engine.load()
        ids = engine.tokenize(evaluation_text()[: 24 * count * length])
    step = len(ids) // count
    return [ids[number * step : number * step + length] for number in range(count)]


def _reference(folder: Path, model: str, overrides: Sequence[str], ids: list[list[int]]) -> Logits:
    """Hugging Face's logits in float32, [tokens, vocabulary], kept beside the results."""
    path, key = folder / "reference.npy", folder / "reference.json"
    if not (path.exists() and key.exists() and json.loads(key.read_text()) == ids):
        from pipeline.verify.huggingface import load_model, sequence_logits

        with tempfile.TemporaryDirectory() as scratch:
            loaded = load_model(_source(model, overrides, Path(scratch)), {})
        np.save(path, np.concatenate([sequence_logits(loaded, run) for run in ids]))
        key.write_text(json.dumps(ids))
    return np.asarray(np.load(path, mmap_mode="r"))


def _source(model: str, overrides: Sequence[str], folder: Path) -> Path:
    """`folder`, filled with links to the model's own files."""
    from pipeline.recipe.compose import compose
    from pipeline.source.resolve import resolve

    (recipe,) = compose([f"model={model}", *overrides])
    for name, file in resolve(recipe.config["model"], ROOT / "artifacts" / ".cache", Quiet()).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(file.path)
    return folder


class Quiet:
    """A log that nobody reads."""

    def progress(self, done: int, total: int, what: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def _measure(product: Path, ids: list[list[int]], reference: Logits, dynamic: int) -> dict[str, float]:
    with Engine(product, {"memory": "low", "dynamic_option": dynamic}) as engine:
        engine.load()
        logits = np.concatenate([engine.logits(run) for run in ids])
        begun = time.monotonic()
        tokens = len(engine.generate(ids[0][:16], 64))
        speed = tokens / (time.monotonic() - begun)
    agreement = compare_logits(reference, logits)
    size = (product / "llm.mnn.weight").stat().st_size
    return {
        "MB": size / 1e6,
        "bpw": 8 * size / _weights(product),
        "KLD": agreement.kld_mean,
        "KLD p99": agreement.kld_p99,
        "top-1": agreement.top1,
        "perplexity": _perplexity(logits, ids),
        "decode tok/s": speed,
    }


def _weights(product: Path) -> int:
    """Weights of all linears: the convolutions of the product's graph."""
    graph = json.loads((product / "llm.mnn.json").read_text(encoding="utf-8"))
    shapes = [op["main"]["common"] for op in graph["oplists"] if op["type"] == "Convolution"]
    return sum(shape["inputCount"] * shape["outputCount"] for shape in shapes)


def _perplexity(logits: Logits, ids: list[list[int]]) -> float:
    total, count, row = 0.0, 0, 0
    for run in ids:
        for start in range(0, len(run) - 1, 64):
            stop = min(start + 64, len(run) - 1)
            chances = log_softmax(logits[row + start : row + stop].astype(np.float64))
            total -= float(chances[np.arange(stop - start), run[start + 1 : stop + 1]].sum())
        count, row = count + len(run) - 1, row + len(run)
    return float(np.exp(total / count))


def _head() -> str:
    return f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def _line(row: dict[str, Any]) -> str:
    formats = ("{}", "{:.1f}", "{:.2f}", "{:.4f}", "{:.3f}", "{:.1%}", "{:.2f}", "{:.0f}", "{:.0f}")
    cells = [text.format(row[column]) for text, column in zip(formats, COLUMNS, strict=True)]
    return f"| {' | '.join(cells)} |"


def _plot(rows: list[dict[str, Any]]) -> str:
    """Divergence (logarithmic) over size, one labelled point a recipe."""
    width, height, margin = 640, 420, 60
    sizes, klds = [row["MB"] for row in rows], [np.log10(max(row["KLD"], 1e-9)) for row in rows]

    def place(value: float, values: list[float], length: int) -> float:
        return margin + (value - min(values)) / (max(values) - min(values) or 1) * (length - 2 * margin)

    marks = []
    for row, size, kld in zip(rows, sizes, klds, strict=True):
        x, y = place(size, sizes, width), height - place(kld, klds, height)
        marks.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4"/>')
        marks.append(f'<text x="{x + 7:.0f}" y="{y:.0f}">{row["quant"]}</text>')
    axes = (
        f'<path d="M{margin} {margin}V{height - margin}H{width - margin}" fill="none" stroke="black"/>'
        f'<text x="{width / 2:.0f}" y="{height - 15}">weights, {min(sizes):.0f} to {max(sizes):.0f} MB</text>'
        f'<text x="5" y="30">KL divergence, {10 ** min(klds):.2g} to {10 ** max(klds):.2g} nats, logarithmic</text>'
    )
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
    return f'<svg {frame} font-size="12">{axes}{"".join(marks)}</svg>\n'


if __name__ == "__main__":
    main()
