"""Runs by itself in another environment (numpy and some MNN): asks a product and notes every step before the next.

`python -I probe.py JOB.json OUT`: OUT gets steps.jsonl and logits.npy. Any step may be the last: the engine may end
the process. Of this project nothing can be imported here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


class Steps:
    """A line of JSON for each step that was begun or done, on the disk at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, step: str, **what: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **what}) + "\n")


def main(job_file: str, out: str) -> None:
    """Import, load, greedy answer, logits."""
    job, folder = json.loads(Path(job_file).read_text(encoding="utf-8")), Path(out)
    steps = Steps(folder / "steps.jsonl")
    steps.note("import")
    module = importlib.import_module("MNN.llm")
    steps.note("load")
    model = module.create(job["config"])._c_obj
    model.set_config(json.dumps(job["overrides"]))
    if model.load() is False:  # 3.4 returns None in any case
        raise RuntimeError("the engine's load() said no")
    steps.note("answer")
    model.generate_init()
    ids = [int(token) for token in model.generate(job["prompt"], job["max_new_tokens"])]
    steps.note("answered", ids=ids, text=_text(model, ids))
    steps.note("logits")
    _logits(model, job["evaluation"], folder / "logits.npy")
    steps.note("done")
    sys.stdout.flush()
    os._exit(0)  # the engine's destructors may crash


def _text(model: Any, ids: list[int]) -> str:
    return b"".join(_piece(model, token) for token in ids).decode("utf-8", "replace")


def _piece(model: Any, token: int) -> bytes:
    """A token may end inside a UTF-8 character."""
    try:
        return str(model.tokenizer_decode(token)).encode()
    except UnicodeDecodeError as error:
        return error.object


def _logits(model: Any, ids: list[int], path: Path) -> None:
    """float32 [len(ids), vocabulary] of a fresh sequence."""
    import numpy as np

    model.set_config(json.dumps({"all_logits": True}))
    model.reset()
    rows = np.asarray(model.forward(ids).read(), dtype=np.float32)
    np.save(path, rows.reshape(-1, rows.shape[-1]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
