"""`doit export` as a person runs it, on toy stages: output, exit codes, options, sweeps, interruptions."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.tasks.project import Folder, end

ALL = ["checkpoint", "config", "graph", "link", "quality", "weights"]


def test_an_export_and_its_summary(folder: Folder) -> None:
    code, out, err = folder.doit("export")
    assert (code, err) == (0, "")
    assert sorted(folder.calls) == ALL
    assert "verified (fast): " in out and " bytes pass" in out
    assert "product: artifacts/toy  (" in out
    assert out.rstrip().endswith("python -m pipeline chat artifacts/toy")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[rows.index(["stage", "seconds", "size"]) + 2 :][:6]] == [
        "checkpoint",
        "graph",
        "weights",
        "link",
        "config",
        "quality",
    ]
    assert "\x1b" not in out  # no terminal: no colours, no bars

    code, out, err = folder.doit("export")
    assert (code, err, folder.calls) == (0, "", [])
    assert "built" not in out


@pytest.mark.parametrize(
    "arguments", [["export", "-n", "1"], ["-n", "1", "export"], ["run", "export"], ["export", "-c"], []]
)
def test_options_before_and_after_the_verb(folder: Folder, arguments: list[str]) -> None:
    code, _, err = folder.doit(*arguments)
    assert (code, err) == (0, "")
    assert sorted(folder.calls) == ALL


@pytest.mark.parametrize("arguments", [["export", "-a"], ["-a", "export"]])
def test_always(folder: Folder, arguments: list[str]) -> None:
    folder.doit("export")
    folder.calls  # noqa: B018
    assert folder.doit(*arguments)[0] == 0
    assert sorted(folder.calls) == ALL


def test_a_sweep_shares_stages_and_ends_with_a_table(folder: Folder) -> None:
    code, out, err = folder.doit("export", "quant=int4,int8", *folder.sweep, recipe=False)
    assert (code, err) == (0, "")
    assert sorted(folder.calls) == sorted([*ALL, "weights", "link", "quality"])
    names = sorted(path.name for path in folder.artifacts.iterdir() if not path.name.startswith("."))
    assert len(names) == 2 and all(f"  {name}  published " in out for name in names)


def test_one_failure_of_a_sweep_and_the_others_with_continue(folder: Folder) -> None:
    lengths = "verify.length=10,1000000"
    recipe = [*[text for text in folder.sweep if "length" not in text], lengths, "quant.block=32,64"]
    code, out, err = folder.doit(
        "export", "--continue", *recipe, "name='x${quant.block}-${verify.length}'", recipe=False
    )
    assert code == 1, err
    assert out.count("published") == 2 and out.count("FAILED") == 2
    assert err.count("ERROR: local: quality: the weights have") == 2 or err.count("ERROR:") == 1


def test_two_recipes_for_one_folder_are_refused_before_work(folder: Folder) -> None:
    code, _, err = folder.doit("export", "quant=int4,int8")
    assert code == 3
    assert err.startswith("ERROR: two recipes would both write artifacts/toy")
    assert folder.calls == []


def test_a_refused_product(folder: Folder) -> None:
    code, out, err = folder.doit("export", "verify.length=5", *folder.sweep[:2], "name=toy", recipe=False)
    assert code == 1
    assert err.startswith("ERROR: local: quality: the weights have ") and err.count("\n") == 1
    assert "report.json kept as " in out
    assert not (folder.artifacts / "toy").exists()


def test_a_bug_of_a_stage_is_one_line_with_the_log(folder: Folder) -> None:
    (folder.model / "config.json").chmod(0o644)
    code, _, err = folder.doit("export", TOY_CALLS=str(folder.root / "no" / "such" / "folder"))
    assert code == 1
    assert "FileNotFoundError" in err or "No such file" in err
    assert "Traceback" not in err and err.count("\n") <= 2 and "/logs/" in err


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["export", "modle=x"], "ERROR: unknown key 'modle'. Did you mean 'model'?"),
        (["export", "model=smollm2-135n"], "ERROR: unknown model 'smollm2-135n'. Did you mean 'smollm2-135m'?"),
        (
            ["export", "smollm2-135m"],
            "ERROR: 'smollm2-135m' is not an override → write key=value, for example model=smollm2-135m",
        ),
        (["export", "--frobnicate"], "ERROR: doit export: option --frobnicate not recognized → type doit help export"),
        (["export", "-n", "x"], "ERROR: -n x: a number of stages to run at once was expected"),
        (["export", "-n", "0"], "ERROR: -n 0: a number of stages"),
        (["export", "model=local", "model.path=no/such"], "ERROR: "),
        (["export", "cache.remote=/x", "cache.remote_mode=write"], "ERROR: cache.remote_mode"),
        (["export", "--locked"], "ERROR: smollm2-135m-int4 is not in pipeline.lock → write it: doit lock"),
        (["verify"], "ERROR: artifacts/smollm2-135m-int4 is not there → make it first: doit export"),
        (["gc", "--keep", "much"], "ERROR: --keep much: a size was expected → write --keep 20GB"),
    ],
)
def test_wrong_requests_are_one_line_and_three(folder: Folder, arguments: list[str], line: str) -> None:
    code, out, err = folder.doit(*arguments, recipe=False)
    assert (code, out) == (3, "")
    assert err.startswith(line) and err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_one_line_and_leaves_nobody(folder: Folder, number: int, code: int) -> None:
    process = folder.start("export", TOY_SECONDS="20")
    _wait_for_worker(folder)
    got, _, err = end(process, number)
    assert got == code
    assert err.strip() == "interrupted: finished stages are kept; the same command goes on from there"
    assert folder.no_worker_is_left()
    assert folder.doit("export")[0] == 0


def test_a_killed_build_leaves_nobody(folder: Folder) -> None:
    process = folder.start("export", TOY_SECONDS="20")
    _wait_for_worker(folder)
    end(process)
    assert folder.no_worker_is_left()


def test_two_builds_at_once_run_each_stage_once(folder: Folder) -> None:
    both = [folder.start("export", TOY_SECONDS="0.2") for _ in range(2)]
    ends = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert sorted(folder.calls) == ALL


def test_a_reader_that_has_seen_enough(folder: Folder) -> None:
    import subprocess

    command = " ".join(f"'{word}'" for word in folder.command("export", *folder.recipe))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1"],
        cwd=folder.root,
        env=folder.environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert (folder.artifacts / "toy/manifest.json").is_file()


def test_bars_where_there_is_a_terminal(folder: Folder) -> None:
    import pty
    import subprocess

    for variables, drawn in (({"CI": ""}, True), ({"CI": "true"}, False)):
        main, side = pty.openpty()
        command = folder.command("export", "-a", *folder.recipe)
        environment = folder.environment(TERM="xterm", TOY_SECONDS="0.1", **variables)
        process = subprocess.Popen(command, cwd=folder.root, env=environment, stdout=side, stderr=side, close_fds=True)
        import os

        os.close(side)
        seen = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
        assert process.wait(60) == 0, seen.decode()
        assert (b"\x1b[" in seen) == drawn


def test_a_fault_of_the_remote_does_not_fail_the_build(folder: Folder) -> None:
    code, out, err = folder.doit("export", "cache.remote=nowhere://x", "cache.remote_mode=readwrite")
    assert (code, err) == (0, "")
    assert out.count("going on without it") == 1


def test_a_fresh_folder_fetches_the_product_from_the_remote(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    remote = f"cache.remote={folder.root}/remote"
    assert folder.doit("export", remote, "cache.remote_mode=readwrite")[0] == 0
    other = Folder(tmp_path_factory.mktemp("other"))
    assert other.doit("export", remote)[0] == 0
    assert other.calls == []
    ours, theirs = folder.content(), other.content()
    manifests = [json.loads(content.pop("manifest.json")) for content in (ours, theirs)]
    assert ours == theirs
    assert manifests[0]["stages"] == manifests[1]["stages"]


def _wait_for_worker(folder: Folder) -> None:
    for _ in range(1000):
        if folder.calls_file.exists() and folder.workers():
            return
        time.sleep(0.02)
    raise TimeoutError("no worker came")


def test_a_killed_build_leaves_no_grandchild(folder: Folder) -> None:
    marker = folder.root / "grandchild"
    child = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    process = folder.start("export", TOY_CHILD=child)
    while not marker.exists() or not marker.read_text():
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    end(process)
    assert _gone(int(marker.read_text()))


def _gone(pid: int) -> bool:
    for _ in range(250):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False
