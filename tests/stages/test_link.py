"""The stage: what it reads, what it writes, what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3ForCausalLM

from pipeline.errors import StageFailed, UserError
from pipeline.mnn.skeleton import build_skeleton
from pipeline.stages.link import STAGE, run
from tests.mnn.handmade import linear_weights, tiny_model, write_fp16_weights, write_onnx

CONFIG: dict[str, Any] = {"target": {"graph": {"fuse_c4": True}, "mnnconvert": ""}}


class RecordingLog:
    """A stage's log that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        """Not used by this stage."""

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return tiny_model()


@pytest.fixture
def inputs(model: Qwen3ForCausalLM, tmp_path: Path) -> dict[str, Path]:
    """Folders of the stages graph and places, as the contract has them."""
    folders = {name: tmp_path / name for name in ("graph", "places", "out")}
    for folder in folders.values():
        folder.mkdir()
    graph = folders["graph"]
    build_skeleton(write_onnx(model, tmp_path / "a.onnx"), graph / "skeleton.json", tmp_path / "work", True)
    weights = write_fp16_weights(linear_weights(model), tmp_path / "llm.mnn.weight")
    layout = {"linears": [{"name": name} for name in weights["linears"]], "tables": []}
    (graph / "layout.json").write_text(json.dumps(layout))
    (folders["places"] / "places.json").write_text(json.dumps(weights))
    return folders


def test_it_writes_the_model_and_its_json_and_nothing_else(inputs: dict[str, Path]) -> None:
    log = RecordingLog()
    run(CONFIG, inputs, inputs["out"], log)
    assert sorted(path.name for path in inputs["out"].iterdir()) == ["llm.mnn", "llm.mnn.json"]
    count = len(json.loads((inputs["out"] / "llm.mnn.json").read_text())["oplists"])
    assert log.notes == [f"{count} operators"]


def test_its_declaration_covers_what_it_reads() -> None:
    assert {entry.stage: entry.files for entry in STAGE.inputs} == {
        "graph": ("skeleton.json", "layout.json"),
        "places": ("places.json",),
        "awq": ("folds.safetensors",),
    }
    assert set(STAGE.config) == {"target.graph.fuse_c4", "target.mnnconvert"}
    assert STAGE.tools == ("MNN",)


def test_weights_of_another_model_are_refused(inputs: dict[str, Path]) -> None:
    path = inputs["places"] / "places.json"
    weights = json.loads(path.read_text())
    weights["linears"]["somewhere.else"] = weights["linears"].pop("lm_head")
    path.write_text(json.dumps(weights))
    with pytest.raises(StageFailed, match=r"\(lm_head\).*\(somewhere\.else\)"):
        run(CONFIG, inputs, inputs["out"], RecordingLog())
    assert list(inputs["out"].iterdir()) == []


def test_a_wrong_converter_is_the_users_error(inputs: dict[str, Path]) -> None:
    config = {"target": {"graph": {"fuse_c4": True}, "mnnconvert": "/nowhere/MNNConvert"}}
    with pytest.raises(UserError, match="/nowhere/MNNConvert"):
        run(config, inputs, inputs["out"], RecordingLog())


def test_the_converters_words_reach_the_stages_log(
    inputs: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run(CONFIG, inputs, inputs["out"], RecordingLog())
    assert "has convert to" in capfd.readouterr().out
