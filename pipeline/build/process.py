"""Starting workers and listening to them. What a worker can do wrong ends here as one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TextIO

from pipeline.build.code import ROOT
from pipeline.build.forked import AVAILABLE, Forked, Forks
from pipeline.build.stage import Log
from pipeline.build.store import out_of_space
from pipeline.errors import StageFailed, UserError

# What must not differ between two runs of an action, whatever the user's shell says.
HERMETIC = {
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # glibc (mallopt(3)): what a stage frees and takes again, blocks of some MB, stays its own instead of going back to
    # the system and coming anew page by page: the weight pass of a 1.5B takes 2.3 s instead of 3.0, and no more memory.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    # So short that OpenBLAS's threads sleep until there is work for them: 0.13 s of a core wherever numpy is imported.
    "OPENBLAS_THREAD_TIMEOUT": "4",
}
GRACE_SECONDS = 20.0
NEARLY_FULL = 64 << 10  # bytes
FREE_SOME = "free some space (doit gc --keep 5GB), then run again"


class Worker:
    """One child process; runs one job."""

    def __init__(self, popen: subprocess.Popen[str] | Forked, messages: TextIO, log: Path, lifeline: int) -> None:
        self.popen = popen
        self._messages = messages
        self.log = log
        self._lifeline = lifeline

    def run(self, job: Mapping[str, Any], log: Log) -> dict[str, Any]:
        """Send the job, pass on its progress, return its result ({"imported": …, "peak": …}).

        Raises UserError or StageFailed as the stage did, and StageFailed for a crash, a kill, a lack of memory or disk.
        """
        try:
            self._send(job)
            result = self._listen(log)
        finally:
            self._messages.close()
        code = self._wait(killed=result is None)
        if result is None:
            raise _disk_is_full(Path(job["out"])) or StageFailed(*_ending(code, self.log))
        if "error" in result:
            raise failure(result["error"], Path(job["out"]), self.log)
        return result

    def warm(self, modules: tuple[str, ...]) -> None:
        """Let the worker import while its job's inputs are being made."""
        self._send({"warm": list(modules)})

    def kill(self) -> None:
        """End the worker and all that it started."""
        if pid := self.popen.pid:
            kill_group(pid)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps(message) + "\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            pass  # it has died: `run` says how

    def _listen(self, log: Log) -> dict[str, Any] | None:
        for line in self._messages:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # the last line of a worker killed while it wrote
            if "progress" in message:
                log.progress(*message["progress"])
            elif "note" in message:
                log.note(message["note"])
            elif "result" in message:
                return dict(message["result"])
        return None

    def _wait(self, killed: bool) -> int:
        try:
            return self.popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.wait()
        finally:
            os.close(self._lifeline)  # its guard kills whatever it left behind


class Spawner:
    """Starts workers from one thread that lives as long as the build: a child's death signal follows its thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spawner")
        self._lock = Lock()
        self._alive: set[Worker] = set()
        self._forks: dict[tuple[str, ...], Forks] = {}

    def start(self, log: Path, cwd: Path, shared: tuple[str, ...] = ()) -> Worker:
        """A worker that waits for its job, with its output in `log`.

        shared: modules that several workers of this build import. They are imported once, in a process that is then
        forked: torch and transformers take three seconds of a core each time.
        """
        worker = self._thread.submit(self._start, log, cwd, shared).result()
        with self._lock:
            self._alive.add(worker)
        return worker

    def done(self, worker: Worker) -> None:
        """The worker has ended."""
        with self._lock:
            self._alive.discard(worker)

    def kill_all(self) -> None:
        """End every worker now. Safe in a signal handler: takes no lock."""
        for forks in list(self._forks.values()):
            forks.kill()  # a worker that it has yet to fork has no pid
        for worker in list(self._alive):
            worker.kill()

    def close(self) -> None:
        """End the processes that workers were forked from."""
        while self._forks:
            self._forks.popitem()[1].close()

    def _start(self, log: Path, cwd: Path, shared: tuple[str, ...]) -> Worker:
        reader, writer = os.pipe()
        lifeline, held = os.pipe()
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as output:
                forked = self._fork(shared, log.parent, cwd, output, (writer, lifeline))
                popen = forked or _spawn(cwd, output, (writer, lifeline))
        finally:
            os.close(writer)
            os.close(lifeline)
        return Worker(popen, os.fdopen(reader, encoding="utf-8"), log, held)

    def _fork(
        self, shared: tuple[str, ...], home: Path, cwd: Path, output: BinaryIO, handles: tuple[int, int]
    ) -> Forked | None:
        if not shared or not AVAILABLE:
            return None
        if shared not in self._forks:
            self._forks[shared] = Forks(shared, output, environment(), home)
        try:
            return self._forks[shared].fork(cwd, output, *handles)
        except OSError:  # killed, by hand or for want of memory: this worker imports for itself, the next asks anew
            self._forks.pop(shared).close()
            return None


def _spawn(cwd: Path, output: BinaryIO, handles: tuple[int, int]) -> subprocess.Popen[str]:
    messages, lifeline = handles
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.build.worker", str(messages), str(os.getpid()), str(lifeline)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=handles,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
        text=True,
    )


def environment() -> dict[str, str]:
    """The environment of every worker."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, **HERMETIC, "PYTHONPATH": path}


def failure(error: Mapping[str, Any], out: Path, log: Path) -> StageFailed | UserError:
    """A worker's error as an exception."""
    message, next_step = str(error["message"]), str(error.get("next_step", ""))
    if error["kind"] == "user":
        return UserError(message, next_step)
    if error["kind"] == "stage":
        return StageFailed(message, next_step)
    if error["kind"] == "os":
        code = int(error["errno"])
        if code in (errno.ENOSPC, errno.EDQUOT):
            return StageFailed(out_of_space(out, OSError(code, "")), FREE_SOME)
        return StageFailed(message, f"read {log}")
    bug = StageFailed(f"{message} (a bug in the stage, or damaged input)", f"read {log}")
    return _disk_is_full(out) or bug


def _disk_is_full(out: Path) -> StageFailed | None:
    """The failure to report instead of its consequence: native code seldom says why it could not write."""
    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    if shutil.disk_usage(existing).free >= NEARLY_FULL:
        return None
    full = OSError(errno.ENOSPC, "")
    return StageFailed(out_of_space(out, full), FREE_SOME)


def kill_group(pid: int) -> None:
    """SIGKILL to a worker's process group; nothing if it is gone."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _ending(code: int, log: Path) -> tuple[str, str]:
    if code == -signal.SIGKILL:
        return f"the worker was killed (by hand, or by the system for want of memory); log: {log}", (
            "close other programs or build with -n 1, then run again"
        )
    if code < 0:
        return f"native code crashed ({signal.Signals(-code).name}); log: {log}", f"read the end of {log}"
    return f"the worker ended with exit code {code} and no result; log: {log}", f"read the end of {log}"
