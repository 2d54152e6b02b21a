"""The stage places: decided before the weights, by the recipe and the graph alone, and kept by whoever writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.build.config import subset
from pipeline.errors import UserError
from pipeline.stages import awq as awq_stage
from pipeline.stages import config as config_stage
from pipeline.stages import gptq, link, places, weights
from tests.stages.test_weights import QUANT, SMOLLM2, Recorder

LINEARS = {"model.layers.0.self_attn.q_proj": (576, 576), "model.layers.0.mlp.down_proj": (576, 1536)}
ADAPTER = {"mode": "none", "weight": 1.0}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Source and graph: two of SmolLM2's linears, Q4_1 in its file, and a table."""
    for name in ("source", "graph", "places", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "model.gguf").symlink_to(SMOLLM2)
    linears = [
        {"name": name, "out_features": out, "in_features": columns, "parts": [{"tensor": f"{name}.weight"}]}
        for name, (out, columns) in LINEARS.items()
    ]
    norm = "model.norm.weight"
    tables = [{"name": "gains", "rows": 1, "columns": 576, "parts": [{"tensor": norm, "rows": [0, 576]}]}]
    layout = {"lm_head": "lm_head", "tied": False, "linears": linears, "tables": tables}
    (tmp_path / "graph" / "layout.json").write_text(json.dumps(layout))
    return {name: tmp_path / name for name in ("source", "graph")}


def run(folders: dict[str, Path], out: Path, **quant: Any) -> tuple[dict[str, Any], Recorder]:
    log = Recorder()
    places.run({"quant": {**QUANT, **quant}, "adapter": ADAPTER}, folders, out, log)
    return json.loads((out / "places.json").read_text()), log


@pytest.mark.parametrize("quant", [{"bits": 16, "block": 0}, {"bits": 3}, {"algorithm": "source", "block": 32}])
def test_the_weight_file_keeps_to_them(folders: dict[str, Path], quant: dict[str, Any], tmp_path: Path) -> None:
    """The finished file has the size that was told before, and says of each linear what was said before."""
    graph = json.loads((folders["graph"] / "layout.json").read_text())
    (folders["graph"] / "layout.json").write_text(json.dumps({**graph, "tables": []}))
    told, _ = run(folders, tmp_path / "places", **quant)
    inputs = {**folders, "places": tmp_path / "places"}
    weights.run({"adapter": ADAPTER}, inputs, tmp_path / "weights", Recorder())
    assert (tmp_path / "weights" / weights.WEIGHT_FILE).stat().st_size == told["bytes"]
    written = json.loads((tmp_path / "weights" / "weights.json").read_text())["linears"]
    for name, entry in told["linears"].items():
        assert {key: written[name][key] for key in entry} == entry


def test_runs_lie_one_behind_the_other(folders: dict[str, Path], tmp_path: Path) -> None:
    told, _ = run(folders, tmp_path / "places")
    end = 0
    for entry in (*told["linears"].values(), *told["tables"].values()):
        assert entry["external"][0] == end
        end += sum(entry["external"][1:])
    assert end == told["bytes"]
    assert told["tables"]["gains"]["external"][1] == 4 * 576
    rows, columns = LINEARS["model.layers.0.mlp.down_proj"]
    header, codes, scales = 1 + 4 + 1 + 16, rows * columns // 2, rows * columns // 64 * 4
    assert told["linears"]["model.layers.0.mlp.down_proj"]["external"][1:4] == [header + codes, scales, 0]


def test_the_sources_own_lattice_decides(folders: dict[str, Path], tmp_path: Path) -> None:
    told, log = run(folders, tmp_path / "places", algorithm="source", bits=8, block=64)
    assert log.notes == ["2 linears keep the source's codes"]
    kept = told["linears"]["model.layers.0.self_attn.q_proj"]
    assert (kept["bits"], kept["block"], kept["algorithm"]) == (4, 32, "source")


def test_a_block_that_fits_nothing_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"block 100 does not divide the 576 inputs of 'model\.layers\.0") as error:
        run(folders, tmp_path / "places", block=100)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "places").iterdir()) == []


def test_it_needs_neither_numpy_nor_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """It runs in the process of the build; a plain recipe opens no file of the source."""
    inputs = {"graph": str(folders["graph"])}
    config = {"quant": QUANT, "adapter": ADAPTER}
    code = (
        "import sys; from pathlib import Path; from pipeline.stages import places\n"
        f"inputs = {{name: Path(path) for name, path in {inputs!r}.items()}}\n"
        f"places.run({config!r}, inputs, Path(sys.argv[1]), None)\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "places")], check=True, timeout=60)
    assert json.loads((tmp_path / "places" / "places.json").read_text())["linears"].keys() == LINEARS.keys()


@pytest.mark.parametrize("module", [link, config_stage])
def test_what_needs_places_only_does_not_wait_for_the_weights(module: Any) -> None:
    read = {one.stage for one in module.STAGE.inputs}
    assert "places" in read and "weights" not in read


@pytest.mark.parametrize("module", [weights, gptq, awq_stage])
def test_no_other_stage_decides_on_precisions(module: Any) -> None:
    """What the recipe says of bits and blocks reaches them through places.json alone."""
    whole = {"quant": {**QUANT, "target_bytes": None, "target_bpw": None, "max_kld": None, "act_order": True}}
    asked = [path for path in module.STAGE.config if path.startswith("quant.") and path != "quant.calibration"]
    assert subset(whole, asked).get("quant", {}).keys() <= {"act_order"}
