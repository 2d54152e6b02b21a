"""The stage places before stages that read its decision, in tests that run single stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.stages import places


def placed(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Any) -> dict[str, Path]:
    """`inputs` with the output of places, run on them in the new folder `out`/places; its notes go to `log`."""
    folder = out / "places"
    folder.mkdir(parents=True)
    places.run(config, inputs, folder, log)
    return {**inputs, "places": folder}
