"""What the engine's own settings cost and gain on products that exist: activations' precision, attention, KV cache.

    python benchmarks/settings.py smollm2-135m artifacts/smollm2-135m-int4-wmse artifacts/smollm2-135m-int8
    python benchmarks/settings.py smollm2-135m artifacts/smollm2-135m-int8 --speed      when nothing else runs

KL divergence is against the Hugging Face model in float32 (as in quality.py); speed is of prefill and decode, medians
of runs that take turns. `memory` low quantises activations to 8 bits, `dynamic_option` says per what; `attention_mode`
is 8 × flash attention + how the cache is stored: 0 as computed, 1 keys in 8 bits, 2 keys and values.
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

from benchmarks import divergence  # noqa: E402

LOW = {"memory": "low", "dynamic_option": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "memory=high": {"memory": "high"},
    "memory=low dynamic_option=0": {"memory": "low", "dynamic_option": 0},
    "memory=low dynamic_option=1": {"memory": "low", "dynamic_option": 1},
    "memory=low dynamic_option=2": LOW,
    "… precision=high": {**LOW, "precision": "high"},
    "… attention_mode=0": {**LOW, "attention_mode": 0},
    "… attention_mode=9": {**LOW, "attention_mode": 9},
    "… attention_mode=10": {**LOW, "attention_mode": 10},
}
FORMATS = {
    "product": "{}",
    "settings": "{}",
    "KLD": "{:.4f}",
    "KLD p99": "{:.3f}",
    "top-1": "{:.1%}",
    "prefill tok/s": "{:.0f}",
    "decode tok/s": "{:.0f}",
}


def main(arguments: Sequence[str]) -> None:
    """Measure and print a table; also settings.md and settings.json."""
    options = _options(arguments)
    folder = (options.out or ROOT / "artifacts" / ".benchmarks" / options.model).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    ids = divergence.evaluation_ids(options.products[0], options.sequences, options.length)
    cases = {(one.name, name): (one, keys) for one in options.products for name, keys in SETTINGS.items()}
    rows: list[dict[str, Any]] = [{"product": product, "settings": name} for product, name in cases]
    if options.speed:
        speeds = divergence.speeds({" ".join(key): case for key, case in cases.items()}, (ids[0] * 2)[:256])
        for row in rows:
            row.update(speeds[f"{row['product']} {row['settings']}"])
    if not options.only_speed:
        reference = divergence.reference_logits(folder, options.model, options.overrides, ids)
        for row, (product, keys) in zip(rows, cases.values(), strict=True):
            row.update(divergence.figures(product, ids, reference, keys))
    text = "\n".join([f"| {' | '.join(FORMATS)} |\n|{' --- |' * len(FORMATS)}", *map(_line, rows)])
    (folder / "settings.md").write_text(f"{text}\n", encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(text)


def _options(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("products", nargs="+", type=Path)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--speed", action="store_true", help="also measure speed")
    parser.add_argument("--only-speed", action="store_true", help="with --speed: no divergences")
    parser.add_argument("--out", type=Path, help="folder for the results; default artifacts/.benchmarks/MODEL")
    parser.add_argument("--overrides", nargs="*", default=[], help="recipe overrides that name the model")
    return parser.parse_args(list(arguments))


def _line(row: dict[str, Any]) -> str:
    cells = [text.format(row[column]) if column in row else "" for column, text in FORMATS.items()]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
