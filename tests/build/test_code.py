"""Code digests: what counts as a change of code, and what does not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.build.code import ROOT, CodeDigests, code_digest, memo_file

BEFORE = '"""Module."""\nimport os\n\n\ndef run():\n    """Doc."""\n    return 1  # one\n'


def closure(root: Path, module: str = "app.stage", extra: tuple[str, ...] = ()) -> dict[str, str]:
    return CodeDigests(None, root).closure(module, extra)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """root/app: stage imports helper in a function, helper imports deep relatively; data beside them; other unused."""
    folder = tmp_path / "app"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "stage.py").write_text("def run():\n    from app import helper\n    return helper.x\n")
    (folder / "helper.py").write_text("from .sub.deep import value as x\n")
    (folder / "sub" / "__init__.py").write_text("")
    (folder / "sub" / "deep.py").write_text("value = 1\n")
    (folder / "sub" / "table.json").write_text("{}")
    (folder / "other.py").write_text("value = 2\n")
    return tmp_path


def test_the_closure_follows_imports_inside_functions_and_relative_ones(app: Path) -> None:
    assert list(closure(app)) == [
        "app/__init__.py",
        "app/helper.py",
        "app/stage.py",
        "app/sub/__init__.py",
        "app/sub/deep.py",
        "app/sub/table.json",
    ]


@pytest.mark.parametrize(
    "after",
    [
        BEFORE.replace("# one", "# eins"),
        BEFORE.replace('"""Doc."""', '"""Another."""'),
        BEFORE.replace('"""Module."""', '"""Another."""'),
        BEFORE.replace("\n\n\n", "\n\n\n\n\n"),
        BEFORE.replace("return 1", "return (1)"),
        BEFORE.replace('    """Doc."""\n', ""),
    ],
)
def test_what_is_no_change_of_code(app: Path, after: str) -> None:
    (app / "app/sub/deep.py").write_text(BEFORE)
    before = closure(app)
    (app / "app/sub/deep.py").write_text(after)
    assert closure(app) == before


@pytest.mark.parametrize(
    "after",
    [
        BEFORE.replace("return 1", "return 2"),
        BEFORE.replace("os", "sys"),
        BEFORE.replace("1", "1.0"),
        BEFORE.replace("run()", "run(a=1)"),
        BEFORE + "\nx = 'text'\n",
    ],
)
def test_what_is_a_change_of_code(app: Path, after: str) -> None:
    (app / "app/sub/deep.py").write_text(BEFORE)
    before = closure(app)
    (app / "app/sub/deep.py").write_text(after)
    assert code_digest(closure(app)) != code_digest(before)


def test_data_beside_the_modules_counts(app: Path) -> None:
    before = closure(app)
    (app / "app/sub/table.json").write_text('{"a": 1}')
    assert closure(app) != before


def test_a_module_that_is_not_imported_does_not_count(app: Path) -> None:
    before = closure(app)
    (app / "app/other.py").write_text("value = 3\n")
    assert closure(app) == before


def test_computed_imports_are_declared(app: Path) -> None:
    assert "app/other.py" in closure(app, extra=("app.other",))
    assert "app/sub/deep.py" in closure(app, "app.other", ("app.sub",))


def test_the_folder_does_not_count(app: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import shutil

    elsewhere = tmp_path_factory.mktemp("elsewhere") / "deeper"
    shutil.copytree(app, elsewhere)
    assert closure(elsewhere) == closure(app)


def test_the_memo_is_used_and_noticed_changes_beat_it(app: Path) -> None:
    memo = app / "memo.json"
    digests = CodeDigests(memo, app)
    before = digests.closure("app.stage")
    digests.save()
    assert CodeDigests(memo, app).closure("app.stage") == before
    path = app / "app/sub/deep.py"
    stat = path.stat()
    path.write_text("value = 9\n")  # as long as before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert CodeDigests(memo, app).closure("app.stage") != before


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0, "files": {}}', '{"format": 1, "files": 3}', "\0"])
def test_a_damaged_memo_is_as_good_as_none(app: Path, text: str) -> None:
    (app / "memo.json").write_text(text)
    assert CodeDigests(app / "memo.json", app).closure("app.stage") == closure(app)


def test_a_new_store_finds_the_digests_beside_the_bytecode(tmp_path: Path) -> None:
    found = memo_file(tmp_path)
    assert found == memo_file(tmp_path / "another")
    assert found.parent == Path(importlib.util.cache_from_source(str(ROOT / "pipeline/errors.py"))).parent
    assert found.name.split(".")[1] == sys.implementation.cache_tag


def test_the_first_run_of_a_clone_without_bytecode_leaves_them(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.build.code.ROOT", tmp_path)
    (tmp_path / "pipeline").mkdir()
    memo = memo_file(tmp_path / "store")
    assert memo.parent == tmp_path / "pipeline/__pycache__"
    digests = CodeDigests(memo, app)
    before = digests.closure("app.stage")
    digests.save()
    assert memo.is_file() and CodeDigests(memo, app).closure("app.stage") == before


def test_an_installation_that_cannot_be_written_leaves_them_to_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.build.code.ROOT", tmp_path / "nowhere")
    assert memo_file(tmp_path).parent == tmp_path


def test_the_engine_itself_does_not_count() -> None:
    files = CodeDigests(None, ROOT).closure("pipeline.stages.link")
    assert "pipeline/stages/link.py" in files and "pipeline/mnn/link.py" in files
    assert not [name for name in files if name.startswith("pipeline/build/")]


def test_the_real_closure_is_stable_across_processes_hash_seeds_and_locales() -> None:
    call = "print(code_digest(CodeDigests().closure('pipeline.stages.weights')))"
    script = f"from pipeline.build.code import CodeDigests, code_digest; {call}"
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, locale, zone in (("0", "C", "UTC"), ("4711", "C.UTF-8", "Asia/Kathmandu"))
    ]
    assert runs[0] == runs[1] != ""
