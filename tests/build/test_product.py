"""Products: published whole or not at all, theirs alone, up to date only if their bytes are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.build import product as module
from pipeline.build.nodes import Product
from pipeline.build.store import Blob
from pipeline.errors import StageFailed
from tests.build.project import Project

FILES = ["config.json", "llm.mnn", "llm.mnn.json", "llm.mnn.weight", "manifest.json", "onnx/llm.onnx"]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_product_s_files(project: Project) -> None:
    published = project.export()
    assert published.how == "built"
    assert names(published.product.folder) == FILES
    assert sorted(path.name for path in (project.root / "artifacts").iterdir()) == ["toy-int4"]


def test_the_second_export_is_a_hit_and_touches_nothing(project: Project) -> None:
    folder = project.export().product.folder
    before = {name: os.stat(folder / name) for name in FILES}
    assert project.export().how == "hit"
    assert {name: os.stat(folder / name) for name in FILES} == before


def test_the_manifest_tells_where_everything_came_from(project: Project) -> None:
    folder = project.export().product.folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["quant"]["bits"] == 4
    assert "cache" not in manifest["config"]
    assert set(manifest["sources"]["source"]["files"]) == {"model.txt", "unrelated.bin"}
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}
    assert {"python", "machine", "numpy"} == set(manifest["tools"])
    assert manifest["verification"]["verified"] is True
    assert manifest["verification"]["report"]["passed"] is True
    assert "quality: 1700 bytes pass" in manifest["notes"]
    assert str(project.root) not in json.dumps(manifest)


@pytest.mark.parametrize(
    ("files", "more"),
    [((), []), (("visual.mnn",), ["LLM_SUPPORT_VISION", "MNN_BUILD_OPENCV", "MNN_IMGCODECS"]),
     (("audio.mnn",), ["LLM_SUPPORT_AUDIO", "MNN_BUILD_AUDIO"])],
)  # fmt: skip
def test_what_an_engine_must_be(files: tuple[str, ...], more: list[str]) -> None:
    """The target's own needs, and those of encoders that the product holds."""
    recipe = {"target": {"engine": "3.6.0", "requires": ["MNN_BUILD_LLM", "MNN_METAL"]}}
    product = Product("toy", recipe, Path("toy"), {}, {})
    needs = module._engine_needs(product, {name: Blob("0" * 64, 1) for name in ("llm.mnn", *files)})
    assert needs == {"oldest": "3.6.0", "built_with": ["MNN_BUILD_LLM", "MNN_METAL", *more]}


def test_what_other_engines_made_of_the_same_bytes_is_kept(project: Project) -> None:
    """Published again (here after an edit) with the same files: the matrix stays. With others: it is gone."""
    folder = project.export().product.folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"engines": {"3.4.0": {"verdict": "right"}}}))
    (folder / "llm.mnn").write_bytes(b"edited")
    assert project.export().how == "built"
    kept = json.loads((folder / "manifest.json").read_text())
    assert kept.pop("engines") == {"3.4.0": {"verdict": "right"}}
    assert kept == manifest
    (folder / "manifest.json").write_text(json.dumps({**kept, "files": {}, "engines": {"3.4.0": {}}, "key": ""}))
    assert project.export().how == "built"
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_the_manifest_s_digests_are_those_of_sha256sum(project: Project) -> None:
    import hashlib

    folder = project.export().product.folder
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name, file in files.items():
        data = (folder / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file["sha256"], file["size"])


def test_verify_off_is_said_in_the_manifest(project: Project) -> None:
    folder = project.export(project.recipe(verify__mode="off")).product.folder
    assert json.loads((folder / "manifest.json").read_text())["verification"] == {"mode": "off", "verified": False}


def test_a_refused_product_leaves_the_former_one_and_keeps_the_report(project: Project) -> None:
    folder = project.export().product.folder
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(StageFailed, match="toy: quality: the weights have 1700 bytes, at most 5 may pass"):
        project.export(project.recipe(verify__limit=5))
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    (line,) = [line for line in project.listener.lines if "report.json kept as" in line]
    assert json.loads(Path(line.rsplit(" ", 1)[1]).read_text()) == {"size": 1700, "passed": False}


def test_a_first_product_that_is_refused_leaves_no_folder(project: Project) -> None:
    with pytest.raises(StageFailed):
        project.export(project.recipe(verify__limit=5))
    assert not (project.root / "artifacts").exists()


def test_publishing_without_the_gate_is_impossible(project: Project) -> None:
    engine, graph = project.engine(), project.graph()
    project.run(engine, graph)
    del engine.outcomes[graph.products[0].nodes["quality"].id]
    with pytest.raises(StageFailed, match="toy-int4: not published, because quality did not pass"):
        module.publish(engine, graph.products[0])


def test_editing_a_product_leaves_the_store_whole(project: Project) -> None:
    folder = project.export().product.folder
    for name in FILES:
        assert (folder / name).stat().st_nlink == 1
        with (folder / name).open("a") as file:
            file.write("edited")
    engine, graph = project.engine(), project.graph()
    project.run(engine, graph)
    for node in graph.nodes.values():
        assert all(engine.store.verified(blob) for blob in engine.outcomes[node.id].record.files.values())


@pytest.mark.parametrize("keep_mtime", [False, True])
def test_an_edited_product_is_published_again_and_it_is_said(project: Project, keep_mtime: bool) -> None:
    path = project.export().product.folder / "config.json"
    good, stat = path.read_text(), path.stat()
    path.write_text(good.replace("2", "9"))
    if keep_mtime:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert project.export().how == "built"
    assert path.read_text() == good
    assert (
        "toy-int4: config.json changed since the product was published: publishing it again" in project.listener.lines
    )


def test_a_removed_file_is_published_again(project: Project) -> None:
    folder = project.export().product.folder
    (folder / "llm.mnn").unlink()
    assert project.export().how == "built"
    assert names(folder) == FILES


def test_a_touched_product_is_read_once_and_stays(project: Project) -> None:
    path = project.export().product.folder / "llm.mnn"
    os.utime(path, (1, 1))
    assert project.export().how == "hit"


@pytest.mark.parametrize("text", ["", "[]", '{"key": "other"}', "\0"])
def test_a_foreign_or_damaged_manifest_is_not_up_to_date(project: Project, text: str) -> None:
    folder = project.export().product.folder
    (folder / "manifest.json").write_text(text)
    assert project.export().how == "built"
    assert json.loads((folder / "manifest.json").read_text())["name"] == "toy-int4"


def test_the_former_product_is_there_until_the_new_one_is(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project.export().product.folder
    monkeypatch.setattr(
        module, "put_in_place", lambda scratch, place: (_ for _ in ()).throw(StageFailed("killed here"))
    )
    with pytest.raises(StageFailed, match="killed here"):
        project.export(project.recipe(quant__bits=8))
    assert json.loads((folder / "manifest.json").read_text())["config"]["quant"]["bits"] == 4
    assert [path.name for path in (project.root / "artifacts").iterdir()] == ["toy-int4"]


def test_in_place_without_the_system_call(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    project.export()
    folder = project.export(project.recipe(quant__bits=8)).product.folder
    assert json.loads((folder / "manifest.json").read_text())["config"]["quant"]["bits"] == 8
    assert [path.name for path in (project.root / "artifacts").iterdir()] == ["toy-int4"]


def test_exchange_is_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert module._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one/file").read_text() == "other"
    assert (tmp_path / "other/file").read_text() == "one"
