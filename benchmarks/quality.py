"""What each quantisation costs and gains, measured on the engine: a table, a JSON file and a plot.

    python benchmarks/quality.py smollm2-135m
    python benchmarks/quality.py smollm2-135m --quants int4 int4-wmse "auto quant.target_bpw=4.8" --blocks 64 192
    python benchmarks/quality.py smollm2-135m --speed        adds tokens per second: run it when nothing else runs

Products are built by `doit export` (without its gate) and run as they ship. KL divergence (nats a token), top-1
agreement and perplexity are against the Hugging Face model in float32, on prose that no calibration saw: that is
checked, token by token. "quantise s" are wall seconds of the stages that make the weights. Needs matplotlib (the extra
`bench`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import divergence  # noqa: E402

QUANTS = ("fp16", "int8", "source", "int4", "int4-mse", "int4-hqq", "int4-awq", "int4-wmse", "int4-gptq", "auto")
FORMATS = {
    "recipe": "{}",
    "bytes": "{:,}",
    "bpw": "{:.2f}",
    "KLD": "{:.4f}",
    "KLD p99": "{:.3f}",
    "top-1": "{:.1%}",
    "perplexity": "{:.2f}",
    "quantise s": "{:.0f}",
    "decode tok/s": "{:.0f}",
}


LABEL = (120, 16)
"""Width and height that a label needs in the plot, in pixels."""


@dataclass(frozen=True)
class Case:
    """A quant with overrides of its own, as the command line takes them."""

    quant: str
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the table and the plot call it."""
        return " ".join([self.quant, *(text.removeprefix("quant.") for text in self.overrides)])


def main(arguments: Sequence[str]) -> None:
    """Build, measure, write."""
    options = _options(arguments)
    folder = (options.out or ROOT / "artifacts" / ".benchmarks" / options.model).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = options.store.resolve()
    runtime = {"memory": "low", "dynamic_option": options.dynamic}
    cases = list(_cases(options.quants, options.blocks, options.lm_block))
    products = {case.label: build(options.model, case, options.overrides, store) for case in cases}
    ids = divergence.evaluation_ids(next(iter(products.values())), options.sequences, options.length)
    _refuse_calibration(list(products.values()), ids, store)
    reference = divergence.reference_logits(folder, options.model, options.overrides, ids)
    rows: list[dict[str, Any]] = []
    for label, product in products.items():
        found = {**divergence.size(product), **divergence.figures(product, ids, reference, runtime)}
        rows.append({"recipe": label, **found, "quantise s": divergence.quantising_seconds(product, store)})
        print(_line(rows[-1]), flush=True)
    if options.speed:
        measured = divergence.speeds({label: (one, runtime) for label, one in products.items()}, ids[0][:256])
        rows = [{**row, **measured[row["recipe"]]} for row in rows]
    _write(folder, options.model, rows)
    print(f"written to {folder}")


def _options(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quants", nargs="+", default=list(QUANTS), help='names, or "NAME key=value key=value"')
    parser.add_argument("--blocks", nargs="+", type=int, default=[], help="repeat the uniform 4-bit quants at these")
    parser.add_argument("--lm-block", type=int, default=64, help="the head's block when --blocks changes the body's")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dynamic", type=int, default=2, help="the engine's dynamic_option")
    parser.add_argument("--speed", action="store_true", help="also measure decode speed")
    parser.add_argument("--store", type=Path, default=ROOT / "artifacts" / ".cache")
    parser.add_argument("--out", type=Path, help="folder for the results; default artifacts/.benchmarks/MODEL")
    parser.add_argument("overrides", nargs="*", help="further recipe overrides, key=value")
    return parser.parse_intermixed_args(list(arguments))


def _cases(quants: Sequence[str], blocks: Sequence[int], lm_block: int) -> Iterator[Case]:
    """Each quant once, and each uniform 4-bit one again at every block that is asked for."""
    for text in quants:
        quant, *own = text.split()
        yield Case(quant, tuple(own))
        if quant.startswith("int4") and not own:
            for block in blocks:
                yield Case(quant, (f"quant.block={block}", f"quant.lm_block={lm_block}"))


def build(model: str, case: Case, overrides: Sequence[str], store: Path) -> Path:
    """The product's folder."""
    name = re.sub(r"[^\w.-]+", "-", f"benchmark-{model}-{case.label}")
    own = [f"model={model}", f"quant={case.quant}", *case.overrides, f"name={name}", "verify=off", f"cache.dir={store}"]
    command = [sys.executable, "-m", "doit", "export", *own, *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"built {name}", flush=True)
    return ROOT / "artifacts" / name


def _refuse_calibration(products: Sequence[Path], ids: divergence.Ids, store: Path) -> None:
    """Exit if a product was calibrated on what is measured."""
    manifests = [json.loads((product / "manifest.json").read_text(encoding="utf-8")) for product in products]
    calibrated = {
        json.dumps(manifest["config"]["quant"]["calibration"], sort_keys=True): product
        for product, manifest in zip(products, manifests, strict=True)
        if any(stage in manifest["stages"] for stage in divergence.QUANTISING[:-1])
    }
    for product in calibrated.values():
        divergence.refuse_calibration(ids, divergence.calibration_ids(product, store))


def _write(folder: Path, model: str, rows: list[dict[str, Any]]) -> None:
    head = f"| {' | '.join(FORMATS)} |\n|{' --- |' * len(FORMATS)}"
    (folder / "quality.md").write_text("\n".join([head, *map(_line, rows)]) + "\n", encoding="utf-8")
    (folder / "quality.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    plot(folder / "quality.svg", f"{model}: KL divergence on the engine", rows)


def _line(row: dict[str, Any]) -> str:
    cells = [text.format(row[column]) if column in row else "" for column, text in FORMATS.items()]
    return f"| {' | '.join(cells)} |"


def plot(path: Path, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Divergence (logarithmic) over bits per weight, one labelled point a recipe; the same rows give the same bytes."""
    with axes(path, title) as drawn:
        drawn.margins(x=0.25, y=0.08)
        drawn.plot([row["bpw"] for row in rows], [row["KLD"] for row in rows], "o", color="tab:blue")
        _label(drawn, [(row["recipe"], row["bpw"], row["KLD"]) for row in rows])


def _label(drawn: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """A name beside each point: on its right, or on its left where a label on the right would cover another's."""
    right: list[tuple[float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        pixels = tuple(drawn.transData.transform((x, y)))
        free = all(abs(pixels[0] - a) > LABEL[0] or abs(pixels[1] - b) > LABEL[1] for a, b in right)
        if free:
            right.append(pixels)
        drawn.annotate(name, (x, y), xytext=(6 if free else -6, 0), textcoords="offset points", va="center",
                       ha="left" if free else "right", fontsize=8)


@contextmanager
def axes(path: Path, title: str) -> Iterator[Any]:
    """Axes of divergence over bits per weight, written to `path` (SVG) at the end without a date or random ids."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "quality", "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, drawn = pyplot.subplots(figsize=(8, 5), layout="constrained")
    drawn.set(yscale="log", xlabel="bits per weight, output head included", ylabel="KL divergence, nats a token")
    drawn.set_title(title)
    drawn.grid(True, which="both", alpha=0.25)
    yield drawn
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
