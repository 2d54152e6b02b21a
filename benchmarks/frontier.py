"""What each budget buys: the divergence that `quant=auto` predicts over all sizes, and what some products then have.

    python benchmarks/frontier.py smollm2-135m --budgets 5.1 5.34 6 7 [--algorithm wmse]

Sensitivities are measured once; every further budget costs a weight pass (and GPTQ, unless --algorithm says otherwise).
A table, a JSON file and a plot beside those of quality.py. Budgets are bits per weight, output head included.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import divergence, quality  # noqa: E402
from pipeline.build.store import Store  # noqa: E402
from pipeline.weights.allocation import TABLE, frontier, load_table  # noqa: E402

Curve = list[tuple[float, float]]


def main(arguments: Sequence[str]) -> None:
    """Build, measure, write."""
    options = _options(arguments)
    folder = ROOT / "artifacts" / ".benchmarks" / options.model
    folder.mkdir(parents=True, exist_ok=True)
    store, runtime = options.store.resolve(), {"memory": "low", "dynamic_option": 2}
    products = {}
    for budget in options.budgets:
        case = quality.Case("auto", (f"quant.algorithm={options.algorithm}", f"quant.target_bpw={budget}"))
        products[budget] = quality.build(options.model, case, options.overrides, store)
    ids = divergence.evaluation_ids(next(iter(products.values())), options.sequences, options.length)
    reference = divergence.reference_logits(folder, options.model, options.overrides, ids)
    curve = predicted(next(iter(products.values())), store)
    rows = []
    for budget, product in products.items():
        found = {**divergence.size(product), **divergence.figures(product, ids, reference, runtime)}
        rows.append({"budget": budget, "predicted": _at(curve, found["bpw"]), **found})
    write(folder, options.model, curve, rows)
    print((folder / "frontier.md").read_text(encoding="utf-8"))


def _options(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--budgets", nargs="+", type=float, required=True)
    parser.add_argument("--algorithm", default="gptq")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--store", type=Path, default=ROOT / "artifacts" / ".cache")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(list(arguments))


def predicted(product: Path, store: Path) -> Curve:
    """(bits per weight, predicted divergence) of the best choices, fewest bytes first; the head's bytes included."""
    keys = json.loads((product / "manifest.json").read_text(encoding="utf-8"))["stages"]
    sensitivity, weights = (Store(store).find(stage, keys[stage]["key"]) for stage in ("sensitivity", "weights"))
    assert sensitivity is not None and weights is not None
    places = json.loads(Store(store).blob_path(weights.files["weights.json"].sha256).read_text(encoding="utf-8"))
    table = load_table(Store(store).blob_path(sensitivity.files[TABLE].sha256))
    linears = places["linears"]
    head = {name for name in table if linears[name]["algorithm"] != linears[next(iter(table))]["algorithm"]}
    table = {name: choices for name, choices in table.items() if name not in head}
    rest = sum(sum(entry["external"][1:4]) for name, entry in linears.items() if name not in table)
    count = sum(entry["out_features"] * entry["in_features"] for entry in linears.values())
    return [(8 * (size + rest) / count, kld) for size, kld in frontier(table)]


def _at(curve: Curve, bpw: float) -> float:
    """The least divergence predicted within `bpw`."""
    return min((kld for bits, kld in curve if bits <= bpw), default=curve[0][1])


def write(folder: Path, model: str, curve: Curve, rows: Sequence[dict[str, Any]]) -> None:
    """frontier.md, frontier.json and frontier.svg."""
    lines = ["| budget, bpw | bytes | predicted KLD | KLD on the engine | KLD p99 | top-1 |", f"|{' --- |' * 6}"]
    lines += [
        f"| {row['budget']:g} | {row['bytes']:,} | {row['predicted']:.4f} | {row['KLD']:.4f} | {row['KLD p99']:.3f} "
        f"| {row['top-1']:.1%} |"
        for row in rows
    ]
    (folder / "frontier.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {"predicted": curve, "measured": list(rows)}
    (folder / "frontier.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with quality.axes(folder / "frontier.svg", f"{model}: what a budget buys") as axes:
        axes.plot(*zip(*curve, strict=True), label="predicted")
        axes.plot([row["bpw"] for row in rows], [row["KLD"] for row in rows], "o", label="on the engine")
        axes.legend()


if __name__ == "__main__":
    main(sys.argv[1:])
