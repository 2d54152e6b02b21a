"""Experiments on the bare engine: a few lines of Python in a child process, with keys as a product carries them.

The runner would stand between a key and its effect (it clears the cache, sets keys of its own), so it is not used here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_PRELUDE = '''
import importlib, json, os, pathlib, sys
import numpy as np

llm = importlib.import_module("MNN.llm")
folder, told = pathlib.Path(sys.argv[1]), {}
NO_STOP = {"sampler_type": "mixed", "mixed_samplers": ["greedy"], "banned_tokens": list(range(128, 300))}

def variant(keys):
    """A config file with both files' keys and `keys`; None takes one out."""
    files = [json.loads((folder / name).read_text()) for name in ("config.json", "llm_config.json")]
    values = {name: value for name, value in {**files[0], **files[1], **keys}.items() if value is not None}
    (folder / "empty.json").write_text("{}")
    path = folder / f"variant-{len(list(folder.glob('variant-*')))}.json"
    path.write_text(json.dumps({"llm_config": "empty.json", **values}))
    return path

def load(**keys):
    """The raw model, or None if load() says no."""
    model = llm.create(str(variant(keys)))._c_obj
    return model if model.load() else None

def rows(model, ids):
    return np.array(model.forward(ids).read(), dtype=np.float32).reshape(-1, 300)

def logits(ids, **keys):
    return rows(load(all_logits=True, **keys), ids)

def kilobytes(line):
    return next(int(text.split()[1]) for text in open("/proc/self/status") if text.startswith(line))

'''
_END = '''
with open(sys.argv[2], "w") as file:
    json.dump(told, file, default=lambda value: value.tolist())
os._exit(0)
'''


def experiment(folder: Path, code: str, seconds: float = 60.0) -> dict[str, Any]:
    """What `code` put into `told` (numbers, lists, arrays as lists). folder: a product that may be written into."""
    out, log = folder / "told.json", folder / "log"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-c", _PRELUDE + code + _END, str(folder), str(out)]
    with log.open("wb") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=file, timeout=seconds, check=False)
    assert done.returncode == 0, f"{done.returncode}: {log.read_text(errors='replace')[-2000:]}"
    found: dict[str, Any] = json.loads(out.read_text())
    return found
