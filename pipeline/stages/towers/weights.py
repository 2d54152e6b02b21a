"""The body of the stages `visual_weights` and `audio_weights`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Digests, Log


def write_weights(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> Digests:
    """Writes <kind>.mnn.weight and weights.json, at the bits, block and algorithm of the recipe's section `kind`."""
    from pipeline.checkpoint.open import open_model
    from pipeline.weights.hashed import HashedFile
    from pipeline.weights.layout import load_layout
    from pipeline.weights.loops import loops_for
    from pipeline.weights.matrix import Encoder
    from pipeline.weights.precision import resolve
    from pipeline.weights.writer import write

    layout = load_layout(inputs[f"{kind}_graph"] / "layout.json")
    quant = {**config[kind], "scale_bits": config["quant"]["scale_bits"]}
    checkpoint = open_model(config, inputs)
    weights = sum(linear.out_features * linear.in_features for linear in layout.linears)
    with HashedFile(out / f"{kind}.mnn.weight") as file:
        written = write(
            file,
            layout,
            resolve(layout, quant),
            Encoder(checkpoint, loops_for(weights), {}, {}),
            lambda done: log.progress(2 * done, 2 * weights, f"{kind} weights"),
        )
    (out / "weights.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    log.note(f"{written['bytes'] / 1e6:.1f} MB, {8 * written['bytes'] / max(weights, 1):.2f} bits per weight")
    return {f"{kind}.mnn.weight": file.sha256}
