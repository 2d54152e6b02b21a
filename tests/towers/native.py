"""An encoder on the engine by itself, in a process of its own, as everything native."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

CHILD = """
import os, pickle, sys
import numpy as np, MNN.nn as nn, MNN.expr as F
path, given, out = sys.argv[1:4]
names, output, cases = pickle.load(open(given, "rb"))
manager = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "memory": "normal", "numThread": 1},))
manager.set_external(path + ".weight")
module = nn.load_module_from_file(path, names, [output], runtime_manager=manager)
found = []
for case in cases:
    kinds = [F.int if one.dtype == np.int32 else F.float for one in case]
    values = module.forward([F.const(one.tolist(), list(one.shape), F.NCHW, kind) for one, kind in zip(case, kinds)])
    value = values[0] if isinstance(values, (list, tuple)) else values
    found.append(np.array(F.convert(value, F.NCHW).read()).copy())
pickle.dump(found, open(out, "wb"))
sys.stdout.flush()
os._exit(0)
"""


def run(path: Path, output: str, cases: Sequence[Mapping[str, np.ndarray]], scratch: Path) -> list[np.ndarray]:
    """What `output` of the encoder at `path` is for each case: the inputs by name, float32 or int32."""
    names = list(cases[0])
    (scratch / "in").write_bytes(pickle.dumps((names, output, [[case[name] for name in names] for case in cases])))
    command = [sys.executable, "-c", CHILD, str(path), str(scratch / "in"), str(scratch / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    found: list[np.ndarray] = pickle.loads((scratch / "out").read_bytes())
    return found
