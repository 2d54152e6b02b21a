"""The engine on toy stages: what runs, what does not, and what a failure says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.build.stage import Input, Stage
from pipeline.errors import StageFailed
from tests.build.project import STAGES, Project

ALL = ["checkpoint", "graph", "weights", "link", "config", "quality"]


def test_everything_is_built_once_and_then_is_a_hit(project: Project) -> None:
    assert set(project.build().values()) == {"built"}
    assert project.calls == ALL
    assert set(project.build().values()) == {"hit"}
    assert project.calls == []


def test_other_bits_rebuild_the_weights_and_what_follows_only(project: Project) -> None:
    project.build()
    project.calls  # noqa: B018
    project.build(project.recipe(quant__bits=8))
    assert project.calls == ["weights", "link", "quality"]


def test_back_to_the_first_recipe_is_all_hits(project: Project) -> None:
    for bits in (4, 8):
        project.build(project.recipe(quant__bits=bits))
    project.calls  # noqa: B018
    assert set(project.build(project.recipe(quant__bits=4)).values()) == {"hit"}
    assert project.calls == []


def test_a_rebuild_to_the_same_bytes_stops_the_wave(project: Project) -> None:
    project.build()
    project.calls  # noqa: B018
    project.edit("graph", 'called("graph")', 'called("graph")\n    unused = 1')
    assert project.build() == {name: "built" if name == "graph" else "hit" for name in ALL}
    assert project.calls == ["graph"]


def test_comments_and_docstrings_rebuild_nothing(project: Project) -> None:
    project.build()
    project.edit("graph", '"""config.json', '"""A better docstring. config.json')
    project.edit("graph", 'called("graph")', 'called("graph")  # a comment')
    assert set(project.build().values()) == {"hit"}


def test_a_helper_module_belongs_to_the_code(project: Project) -> None:
    project.build()
    project.calls  # noqa: B018
    project.edit("shared", 'log.write(stage + "\\n")', 'log.write(stage + " \\n")')
    assert set(project.build().values()) == {"built"}
    assert project.calls == ALL


def test_a_file_that_no_stage_declares_changes_nothing(project: Project) -> None:
    project.build()
    (project.source / "unrelated.bin").write_text("other bytes")
    assert set(project.build().values()) == {"hit"}


def test_a_changed_source_of_equal_shape_stops_at_the_graph(project: Project) -> None:
    project.build()
    project.calls  # noqa: B018
    (project.source / "model.txt").write_text("SOME WEIGHTS")
    project.build()
    assert project.calls == ["checkpoint", "weights", "quality"]  # link reads weights.json, which is the same


def test_always_builds_everything_again(project: Project) -> None:
    project.build()
    project.calls  # noqa: B018
    assert set(project.build(always=True).values()) == {"built"}
    assert project.calls == ALL


def test_a_stage_sees_only_the_declared_config(project: Project) -> None:
    project.edit("weights", 'quant = config["quant"]', 'quant = config["quant"]; config["target"]')
    with pytest.raises(
        StageFailed, match=r"toy: weights: the stage reads 'target' of the recipe but does not declare it"
    ):
        project.build()


@pytest.mark.parametrize(
    "expression", ['config["quant"]["rules"]', 'config["quant"].get("rules")', '"rules" in config["quant"]']
)
def test_no_way_around_the_declared_config(project: Project, expression: str) -> None:
    project.edit("weights", 'quant = config["quant"]', f'quant = config["quant"]; {expression}')
    with pytest.raises(StageFailed, match=r"reads 'quant.rules' of the recipe"):
        project.build()


def test_a_stage_finds_only_the_declared_files(project: Project) -> None:
    project.edit("checkpoint", 'min(inputs["source"].iterdir())', '(inputs["source"] / "unrelated.bin")')
    with pytest.raises(StageFailed, match=r"checkpoint: .*No such file"):
        project.build()


def test_a_failed_stage_leaves_no_record_and_names_its_log(project: Project) -> None:
    project.edit("graph", 'called("graph")', 'raise ValueError("no such thing")')
    with pytest.raises(StageFailed, match=r"toy: graph: ValueError: no such thing .* read .*/logs/graph-") as caught:
        project.build()
    log = Path(str(caught.value).rsplit("read ", 1)[1])
    assert "Traceback" in log.read_text()
    assert list((project.root / "store/tmp").iterdir()) == []
    assert not (project.root / "store/ac/graph").exists()


def test_a_killed_worker_is_a_failed_stage(project: Project) -> None:
    project.edit("graph", 'called("graph")', "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(StageFailed, match=r"graph: the worker was killed"):
        project.build()


def test_a_crash_of_native_code_is_a_failed_stage(project: Project) -> None:
    project.edit("graph", 'called("graph")', "import ctypes; ctypes.string_at(0)")
    with pytest.raises(StageFailed, match=r"graph: native code crashed \(SIGSEGV\)"):
        project.build()


def test_an_exit_without_a_result_is_a_failed_stage(project: Project) -> None:
    project.edit("graph", 'called("graph")', "import os; os._exit(0)")
    with pytest.raises(StageFailed, match=r"graph: the worker ended with exit code 0 and no result"):
        project.build()


def test_what_native_code_prints_goes_to_the_log(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.edit("graph", 'called("graph")', 'import os; os.write(1, b"noise"); print("more noise")')
    project.build()
    assert capfd.readouterr().out == ""
    assert "noisemore noise" in next((project.root / "store/logs").glob("graph-*.log")).read_text()


def test_a_full_disk_is_one_line(project: Project) -> None:
    project.edit("graph", 'called("graph")', "import errno; raise OSError(errno.ENOSPC, 'No space left on device')")
    with pytest.raises(StageFailed, match=r"graph: the disk of .* is full \(\d+ MiB left\) → free some space"):
        project.build()
    project.edit("graph", "raise OSError(errno.ENOSPC, 'No space left on device')", "pass")
    assert project.build()["checkpoint"] == "hit"


def test_a_stage_that_writes_to_its_input_is_found(project: Project) -> None:
    project.edit(
        "graph",
        'called("graph")',
        'import os; os.chmod(inputs["checkpoint"] / "config.json", 0o644); '
        '(inputs["checkpoint"] / "config.json").write_text("{}")',
    )
    with pytest.raises(StageFailed, match=r"changed while the stage read it"):
        project.build()


def test_a_link_in_the_output_is_refused(project: Project) -> None:
    project.edit("graph", 'called("graph")', '(out / "passwd").symlink_to("/etc/passwd")')
    with pytest.raises(StageFailed, match=r"the stage wrote passwd, which is not a regular file"):
        project.build()


def test_progress_and_notes_arrive(project: Project) -> None:
    project.build()
    assert (1, 1, "bytes") in project.listener.bars
    assert project.listener.notes == ["12 letters", "1700 bytes pass"]


def test_notes_are_kept_in_the_record(project: Project) -> None:
    engine = project.engine()
    graph = project.graph()
    project.run(engine, graph)
    notes = {node.name: engine.outcomes[node.id].record.notes for node in graph.nodes.values()}
    assert notes["checkpoint"] == ("12 letters",)
    assert notes["graph"] == ()


def test_an_import_that_the_key_does_not_know_is_refused(project: Project) -> None:
    hidden = 'import importlib; importlib.import_module("pipeline.recipe." + "schema")'
    project.edit("graph", 'called("graph")', hidden)
    with pytest.raises(
        StageFailed, match=r"pipeline/recipe/.*py was imported but is not part of the stage's action key"
    ):
        project.build()


@pytest.mark.parametrize(("stage", "last", "file"), [
    ("graph", '(out / "layout.json").write_text(f"[{text}]")', "llm.onnx"),
    ("checkpoint", "", "config.json"),
])  # fmt: skip
def test_a_digest_that_the_stage_tells_is_its_files_name(project: Project, stage: str, last: str, file: str) -> None:
    """From a worker and from this process."""
    if last:
        project.edit(stage, last, f'{last}\n    return {{"{file}": "{"ab" * 32}"}}')
    else:
        with (project.root / "toys/checkpoint.py").open("a") as module:
            module.write(f'    return {{"{file}": "{"ab" * 32}"}}\n')
    engine, graph = project.engine(), project.graph()
    project.run(engine, graph)
    (record,) = engine.store.records(stage)
    assert record.files[file].sha256 == "ab" * 32
    assert {blob.sha256 for name, blob in record.files.items() if name != file}.isdisjoint({"ab" * 32})


def test_two_recipes_share_what_they_can(project: Project) -> None:
    project.build(project.recipe(), project.recipe(name="toy-int8", quant__bits=8))
    assert sorted(project.calls) == sorted([*ALL, "weights", "link", "quality"])


def test_an_input_of_a_stage_that_does_not_apply_is_left_out(project: Project) -> None:
    reader = Stage(
        "after", "toys.config", (Input("quality"), Input("link")), config=("target.runtime",), in_process=True
    )
    project.stages = (*STAGES, reader)
    graph = project.graph(project.recipe(verify__mode="off"))
    after = next(node for node in graph.nodes.values() if node.name == "after")
    assert list(after.inputs) == ["link"]
