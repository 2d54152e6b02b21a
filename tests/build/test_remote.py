"""A store shared through a plain folder, and what each of its faults does: it is said once, and the build goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.build import remote as module
from pipeline.build.nodes import SourceNode
from pipeline.build.remote import Remote, Slow, watched
from pipeline.build.store import Blob
from tests.build.project import Project


class Machine:
    """A project whose stores are all empty but for the remote; each `build` is another machine."""

    def __init__(self, project: Project, url: str) -> None:
        self.project = project
        self.url = url
        self.said: list[str] = []
        self.remote: Remote | None = None
        self.number = 0

    def build(self, mode: str = "read", **options: Any) -> dict[str, str]:
        """The whole export on a fresh machine; how each stage was had."""
        self.number += 1
        self.said = []
        recipe = options.pop("recipe", self.project.recipe())
        self.remote = Remote(
            self.url, mode, self.said.append, **{"record_seconds": 5.0, "stall_seconds": 5.0, **options}
        )
        engine = self.project.engine(store=self.project.root / f"store{self.number}", remote=self.remote)
        graph = self.project.graph(recipe)
        how = self.project.run(engine, graph)
        from pipeline.build.product import publish

        publish(engine, graph.products[0])
        self.remote.finish()
        return how

    @property
    def blobs(self) -> list[Path]:
        """Blobs of the machine that built last."""
        return sorted((self.project.root / f"store{self.number}/blobs").glob("*/*"))


@pytest.fixture
def machine(project: Project) -> Machine:
    return Machine(project, str(project.root / "remote"))


def files(machine: Machine) -> list[Path]:
    return sorted(path for path in Path(machine.url).rglob("*") if path.is_file())


def content(machine: Machine) -> dict[str, bytes]:
    folder = machine.project.root / "artifacts/toy-int4"
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_one_machine_built_another_one_fetches(machine: Machine) -> None:
    machine.build("readwrite")
    before = content(machine)
    machine.project.calls  # noqa: B018
    assert set(machine.build().values()) == {"remote"}
    assert machine.project.calls == []
    assert content(machine) == before
    assert machine.said == []


def test_only_the_product_s_files_are_downloaded(machine: Machine) -> None:
    machine.build("readwrite")
    machine.build()
    kept = {path.read_text()[:8] for path in machine.blobs}
    product = machine.project.root / "artifacts/toy-int4"
    shipped = {path.read_text()[:8] for path in product.rglob("*") if path.is_file() and path.name != "manifest.json"}
    told = {'{"size":', '{"bits":'}  # the gate's report and weights.json, which the manifest repeats
    assert kept == shipped | told  # no checkpoint, nothing that only stages read
    assert machine.remote is not None and machine.remote.downloaded == sum(
        path.stat().st_size for path in machine.blobs
    )


def test_a_stage_that_must_run_fetches_its_inputs_only(machine: Machine) -> None:
    machine.build("readwrite")
    machine.project.calls  # noqa: B018
    how = machine.build(recipe=machine.project.recipe(quant__bits=8))
    assert machine.project.calls == ["weights", "link", "quality"]
    assert how["graph"] == how["checkpoint"] == "remote"
    assert not any(path.read_text() == "not read by anybody" for path in machine.blobs)


def test_reading_writes_nothing(machine: Machine) -> None:
    machine.build("read")
    assert not Path(machine.url).exists()


def test_no_record_is_there_before_its_blobs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("_put_file", "_create"):
        original = getattr(Remote, name)

        def spy(self: Any, path: str, *rest: Any, original: Any = original) -> None:
            order.append(path)
            original(self, path, *rest)

        monkeypatch.setattr(Remote, name, spy)
    machine.build("readwrite")
    import json

    for position, path in enumerate(order):
        if "/ac/" in path:
            blobs = [blob["sha256"] for blob in json.loads(Path(path).read_text())["files"].values()]
            assert all(any(sha in earlier for earlier in order[:position]) for sha in blobs)
    assert len([path for path in order if "/ac/" in path]) == 6


def test_what_is_there_is_not_written_again(machine: Machine) -> None:
    machine.build("readwrite")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files(machine)}
    (machine.project.root / "store1").rename(machine.project.root / "gone")
    machine.build("readwrite")
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files(machine)} == before
    assert machine.remote is not None and machine.remote.uploaded == 0


def test_nothing_half_written_is_left_over(machine: Machine) -> None:
    machine.build("readwrite")
    assert not [path for path in files(machine) if path.name.endswith(".part")]


# The five faults: missing, slow, half-written, lying, refusing.


def test_a_missing_remote(machine: Machine) -> None:
    machine.url = "no-such-protocol://bucket/prefix"
    assert set(machine.build("readwrite").values()) == {"built"}
    assert len(machine.said) == 1
    assert machine.said[0].startswith("cache.remote=no-such-protocol://bucket/prefix: ")
    assert machine.said[0].endswith(": going on without it")


def test_a_slow_remote(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "_system", lambda self: time.sleep(60))
    started = time.monotonic()
    assert set(machine.build("readwrite", record_seconds=0.2).values()) == {"built"}
    assert time.monotonic() - started < 30
    assert machine.said == [f"cache.remote={machine.url}: nothing came for 0.2 s: going on without it"]


@pytest.mark.parametrize("cut", [0, 1, 10])
def test_half_written_blobs(machine: Machine, cut: int) -> None:
    machine.build("readwrite")
    before = content(machine)
    for path in files(machine):
        if "/blobs/" in str(path):
            path.write_bytes(path.read_bytes()[: -cut or None][: 10**6 if cut else 0])
    how = machine.build()
    assert set(how.values()) == {"remote"}  # the records are good; the product's files are built again
    assert content(machine) == before
    assert machine.said and all(line.endswith("ignored, and built here") for line in machine.said)
    assert len(machine.said) == len(set(machine.said))


def test_half_written_records(machine: Machine) -> None:
    machine.build("readwrite")
    for path in files(machine):
        if "/ac/" in str(path):
            path.write_bytes(path.read_bytes()[:-20])
    assert set(machine.build().values()) == {"built"}
    assert len(machine.said) == 6
    assert all("is not what it should be (damaged" in line for line in machine.said)


def test_records_without_their_blobs(machine: Machine) -> None:
    machine.build("readwrite")
    before = content(machine)
    for path in files(machine):
        if "/blobs/" in str(path):
            path.unlink()
    machine.build()
    assert content(machine) == before
    assert machine.said == []


def test_lying_blobs(machine: Machine) -> None:
    machine.build("readwrite")
    before = content(machine)
    for path in files(machine):
        if "/blobs/" in str(path):
            path.write_bytes(b"x" * path.stat().st_size)
    machine.build()
    assert content(machine) == before
    assert machine.said and all("holds other bytes: ignored, and built here" in line for line in machine.said)


def test_a_lying_blob_is_mended_by_a_machine_that_may_write(machine: Machine) -> None:
    machine.build("readwrite")
    blob = next(path for path in files(machine) if path.read_bytes().startswith(b"4/64:"))
    good = blob.read_bytes()
    blob.write_bytes(b"x" * len(good))
    machine.build("readwrite")
    assert blob.read_bytes() == good


def test_a_record_of_another_action_is_refused(machine: Machine) -> None:
    machine.build("readwrite")
    one, other = [path for path in files(machine) if "/ac/" in str(path)][:2]
    one.write_bytes(other.read_bytes())
    machine.build()
    assert [line for line in machine.said if "it is the record of another action" in line]


def test_a_record_whose_ingredients_are_others_is_refused(machine: Machine) -> None:
    from dataclasses import replace

    from pipeline.build.store import Record

    machine.build("readwrite")
    path = next(path for path in files(machine) if "/ac/graph/" in str(path))
    record = Record.from_json(path.read_text())
    path.write_text(replace(record, ingredients={**record.ingredients, "tools": {}}).to_json())
    assert machine.build()["graph"] == "built"
    assert [line for line in machine.said if "its ingredients have another key" in line]


@pytest.mark.parametrize("name", ["cat_file", "open", "info", "put_file", "cp_file", "makedirs", "pipe_file", "mv"])
def test_a_remote_that_refuses(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    system = type(fsspec.filesystem("file"))

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("403 Forbidden\nand a long explanation")

    monkeypatch.setattr(system, name, refuse)
    assert set(machine.build("readwrite").values()) == {"built"}
    refused = [f"cache.remote={machine.url}: 403 Forbidden: going on without it"]
    assert machine.said in (refused, [])
    assert machine.said == refused or name in ("open", "cp_file", "mv", "info")


def test_a_remote_that_dies_in_the_middle_of_a_download(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.build("readwrite")
    before = content(machine)

    def die(self: Any, blob: Blob, target: Path, tick: Any, counter: Any) -> str:
        target.write_bytes(b"hal")
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(Remote, "_stream", die)
    machine.build()
    assert content(machine) == before
    assert machine.said == [f"cache.remote={machine.url}: Connection reset by peer: going on without it"]
    assert list((machine.project.root / f"store{machine.number}/tmp").iterdir()) == []


def test_downloads_move_a_bar(machine: Machine) -> None:
    machine.build("readwrite")
    machine.build()
    done, total, what = machine.project.listener.bars[-1]
    assert what == "download" and done == total > 0


def test_a_pinned_commit_s_files_are_known_without_fetching_them(machine: Machine) -> None:
    project = machine.project
    spec = {"name": "toy", "hub": "huggingface", "repo": "a/b", "revision": "c" * 40, "path": "", "gptq_path": ""}
    recipe = project.recipe(model=spec)
    resolve, asked = project._resolve, []

    def counted(node: SourceNode, log: Any) -> Any:
        asked.append(node.name)
        return resolve(node, log)

    project._resolve = counted  # type: ignore[method-assign]
    machine.build("readwrite", recipe=recipe)
    assert asked == ["source"]
    assert set(machine.build(recipe=recipe).values()) == {"remote"}
    assert asked == ["source"]  # a machine that fetches the product never looks for the model
    machine.build(recipe={**recipe, "quant": {**recipe["quant"], "bits": 8}})
    assert asked == ["source", "source"]  # one that builds the weights does


def test_a_branch_is_looked_up_every_time(machine: Machine) -> None:
    from pipeline.build.pinned import pinned_key

    spec = {"hub": "huggingface", "repo": "a/b", "revision": "main"}
    assert pinned_key(SourceNode("source", spec, "id", "")) is None
    assert pinned_key(SourceNode("source", {**spec, "revision": "c" * 40}, "id", "")) is not None
    assert pinned_key(SourceNode("source", {**spec, "revision": "c" * 40, "path": "/x"}, "id", "")) is None


def test_watched_passes_results_and_errors_and_ends_what_stands_still() -> None:
    assert watched(lambda tick: 3, 1) == 3
    with pytest.raises(KeyError):
        watched(lambda tick: {}["x"], 1)
    with pytest.raises(Slow, match=r"nothing came for 0\.1 s"):
        watched(lambda tick: time.sleep(5), 0.1)


def test_watched_lets_a_slow_but_moving_transfer_end() -> None:
    def crawl(tick: Callable[[], None]) -> str:
        for _ in range(8):
            time.sleep(0.1)
            tick()
        return "there"

    assert watched(crawl, 0.4) == "there"


def test_nothing_of_fsspec_is_imported_before_it_is_needed() -> None:
    import subprocess
    import sys

    code = "import sys, pipeline.build.remote; print('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_object_stores_are_known_to_be_atomic() -> None:
    assert Remote("s3://bucket/x", "read", print)._atomic() and not Remote("/plain", "read", print)._atomic()
    assert module.STREAMS > 1


def test_a_plan_takes_a_hub_s_branch_as_it_was_last_seen_and_fetches_nothing(project: Project) -> None:
    spec = {"name": "toy", "hub": "huggingface", "repo": "a/b", "revision": "main", "path": "", "gptq_path": ""}
    recipe = project.recipe(model=spec)
    (node,) = project.graph(recipe).sources.values()
    resolve, asked = project._resolve, []
    project._resolve = lambda node, log: asked.append(node.name) or resolve(node, log)  # type: ignore[method-assign,func-returns-value]
    assert project.engine().assume(node, project.listener) is False
    assert asked == []
    project.build(recipe)
    assert asked == ["source"]
    engine = project.engine()
    assert engine.assume(node, project.listener) is True
    assert asked == ["source"]
    assert set(engine.sources[node.id].files) == {"model.txt", "unrelated.bin"}
    project.build(recipe)
    assert asked == ["source", "source"]  # a build looks the branch up every time
