"""One flipped byte in anything stored is found before it is used or shipped, dropped, rebuilt, and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.build.project import Project


def blobs(project: Project) -> list[Path]:
    return sorted((project.root / "store/blobs").glob("*/*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_flipped_byte_in_any_blob_never_reaches_a_product(project: Project) -> None:
    good = content(project.export().product.folder)
    for path in blobs(project):
        name, whole = path.name, path.read_bytes()
        flip(path)
        shutil.rmtree(project.root / "artifacts/toy-int4")
        assert content(project.export().product.folder) == good
        said = [line for line in project.listener.lines if "was damaged: dropped" in line]
        if not path.exists() or path.read_bytes() != whole:  # an intermediate that nobody needed: not used, not shipped
            assert not said
            assert name not in json.dumps(
                json.loads((project.root / "artifacts/toy-int4/manifest.json").read_text())["files"]
            )
        else:
            assert said


def test_a_flipped_byte_in_any_blob_never_reaches_a_stage(project: Project) -> None:
    project.build()
    good = content(project.export(project.recipe(quant__bits=8)).product.folder)
    for path in blobs(project):
        flip(path)
    project.build(project.recipe(quant__bits=8), always=True)
    assert content(project.export(project.recipe(quant__bits=8)).product.folder) == good


def test_a_damaged_input_is_rebuilt_by_its_own_stage_only(project: Project) -> None:
    engine, graph = project.engine(), project.graph()
    project.run(engine, graph)
    layout = next(
        engine.outcomes[node.id].record.files["layout.json"] for node in graph.nodes.values() if node.name == "graph"
    )
    flip(engine.store.blob_path(layout.sha256))
    project.calls  # noqa: B018
    project.build(project.recipe(quant__bits=8))
    assert project.calls == ["graph", "weights", "link", "quality"]
    assert "graph: its files are not in the store (any more): building them again" in project.listener.lines


def test_lost_blobs_are_made_again_down_to_the_source(project: Project) -> None:
    project.build()
    for path in blobs(project):
        path.unlink()
    project.calls  # noqa: B018
    project.build(project.recipe(quant__block=32))
    assert sorted(project.calls) == ["checkpoint", "graph", "link", "quality", "weights"]


def test_a_stage_that_is_not_reproducible_is_refused_where_it_would_mix(project: Project) -> None:
    project.edit("graph", '"graph of "', "str(__import__('time').time_ns())")
    project.build()
    for path in blobs(project):
        path.unlink()
    with pytest.raises(
        Exception, match=r"graph: the same ingredients gave other bytes \(llm.onnx\) → run again with -a"
    ):
        project.export()


def test_damaged_records_are_rebuilt(project: Project) -> None:
    project.build()
    for path in sorted((project.root / "store/ac").glob("*/*.json")):
        path.write_text(path.read_text().replace("a", "b", 1))
    project.calls  # noqa: B018
    assert set(project.build().values()) == {"built"}
    assert any("was damaged: dropped" in line for line in project.listener.lines)
