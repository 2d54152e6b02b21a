"""Runs an .mnn file as a plain module, in a child process (native code stays out of the test process)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_PROGRAM = """
import os, sys
import numpy as np
import MNN, MNN.expr as expr, MNN.nn as nn
model, folder, outputs = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
given = np.load(folder + "/inputs.npz")
names = list(given.files)
net = nn.load_module_from_file(model, names, outputs)
variables = []
for name in names:
    value = given[name]
    variable = expr.placeholder(list(value.shape), expr.NCHW, expr.int if value.dtype == np.int32 else expr.float)
    variable.write(value)
    variables.append(variable)
results = net.onForward(variables)
np.savez(folder + "/outputs.npz", **{n: expr.convert(r, expr.NCHW).read() for n, r in zip(outputs, results)})
os._exit(0)
"""


def run_module(
    mnn: Path, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], work: Path
) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name. The weight file is `<mnn>.weight`."""
    work.mkdir(exist_ok=True)
    np.savez(work / "inputs.npz", **inputs)
    command = [sys.executable, "-c", _PROGRAM, str(mnn), str(work), ",".join(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=work, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(np.load(work / "outputs.npz"))
