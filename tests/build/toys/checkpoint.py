"""Source → config.json and a copy of the text."""

import json

from toys.shared import called


def run(config, inputs, out, log):
    called("checkpoint")
    text = min(inputs["source"].iterdir()).read_text()
    (out / "config.json").write_text(json.dumps({"letters": len(text)}))
    (out / "notes.txt").write_text("not read by anybody")
    log.note(f"{len(text)} letters")
