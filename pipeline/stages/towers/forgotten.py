"""An encoder that the model has and the recipe does not name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.graph.towers import families


def refuse_forgotten(checkpoint: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError if the model has an encoder of which the recipe says nothing: it would be left out unasked."""
    content = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    listed = config["model"].get("modalities") or []
    wanted = {kind: (config.get(kind) or {}).get("mode", "auto") != "off" for kind in families.SECTIONS}
    families.check(content, wanted)
    for kind in families.modalities(content):
        if wanted[kind] and kind not in listed:
            raise UserError(
                f"the model has a {kind} encoder, and the recipe's model.modalities does not name it",
                f"add model.modalities=[{kind}], or {kind}.mode=off for the text part alone",
            )
