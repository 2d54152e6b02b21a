"""What a change of code rebuilds: a stage's key counts all that it imports, one import too many rebuilds the world."""

from __future__ import annotations

import pytest

from pipeline.build.code import CodeDigests
from pipeline.stages import registry

CODE = CodeDigests()
STAGES = {stage.name: stage for stage in registry.stages()}


def rooms(name: str) -> set[str]:
    """`pipeline/<room>/…` and `pipeline/stages/<module>` whose change rebuilds the stage."""
    stage = STAGES[name]
    return set(CODE.closure(stage.module, stage.code))


def touched(name: str, *prefixes: str) -> list[str]:
    return [file for file in rooms(name) if file.startswith(prefixes)]


@pytest.mark.parametrize("name", ["graph", "visual_graph", "audio_graph", "checkpoint", "tokenizer", "reference"])
def test_a_faster_kernel_or_another_quantiser_rebuilds_no_graph_tokenizer_or_reference(name: str) -> None:
    assert not touched(name, "pipeline/weights/kernels.py", "pipeline/weights/writer.py", "pipeline/calibrate/gptq.py")


@pytest.mark.parametrize("name", ["weights", "embedding", "tokenizer", "config", "checkpoint", "parity"])
def test_a_change_of_the_tracer_rebuilds_only_what_is_traced(name: str) -> None:
    assert not touched(name, "pipeline/graph/tracer", "pipeline/graph/lowering")


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_verbs_around_a_product_rebuild_nothing(name: str) -> None:
    assert not touched(name, "pipeline/use/", "tasks/")


@pytest.mark.parametrize("name", ["weights", "graph", "link", "embedding", "checkpoint", "config"])
def test_the_gate_rebuilds_nothing_that_is_shipped(name: str) -> None:
    assert not touched(name, "pipeline/verify/gate", "pipeline/verify/product")


def test_the_closures_are_not_empty() -> None:
    assert {"pipeline/weights/kernels.py", "pipeline/weights/writer.py"} <= rooms("weights")
    assert "pipeline/calibrate/gptq.py" in rooms("gptq")
    assert "pipeline/graph/tracer.py" in rooms("graph")
    assert "pipeline/verify/gate.py" in rooms("quality")
