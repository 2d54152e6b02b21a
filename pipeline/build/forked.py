"""Workers that are forked from a process which has imported their libraries already: the asking side."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

AVAILABLE = sys.platform.startswith("linux")
"""Elsewhere a process with Apple's or Microsoft's libraries in it cannot be forked safely."""


class Forked:
    """A worker that is no child of this process, with what is needed of a `Popen`: pid, stdin, wait."""

    def __init__(self, told: socket.socket, stdin: TextIO) -> None:
        self.stdin = stdin
        self._told = told
        self._lines = b""

    @property
    def pid(self) -> int:
        """The process's id, or 0 while the server is still importing and has not forked it. Takes no lock."""
        if b"\n" not in self._lines:
            self._read(0)
        return int(self._lines.partition(b"\n")[0]) if b"\n" in self._lines else 0

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises subprocess.TimeoutExpired.

        A server that has ended has taken its workers with it: the kernel kills them then.
        """
        while self._lines.count(b"\n") < 2:
            if not self._read(timeout):
                return -signal.SIGKILL
        return int(self._lines.split(b"\n")[1])

    def _read(self, timeout: float | None) -> bool:
        """False at the end of what the server tells."""
        self._told.settimeout(timeout)
        try:
            found = self._told.recv(64)
        except BlockingIOError:
            return True
        except TimeoutError as error:
            raise subprocess.TimeoutExpired("worker", timeout or 0) from error
        self._lines += found
        return bool(found)


class Forks:
    """A server with `modules` imported. Start it from a thread that lives as long as the build."""

    def __init__(self, modules: Sequence[str], output: BinaryIO, environment: Mapping[str, str], cwd: Path) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "pipeline.build.fork_server", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._popen = subprocess.Popen(
                [*command, *modules],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                cwd=cwd,
                env=dict(environment),
                start_new_session=True,
            )

    def fork(self, cwd: Path, output: BinaryIO, messages: int, lifeline: int) -> Forked:
        """A worker with these handles. Raises OSError if the server has ended."""
        told, teller = socket.socketpair()
        stdin, ours = os.pipe()
        try:
            handles = [teller.fileno(), stdin, output.fileno(), messages, lifeline]
            socket.send_fds(self._requests, [os.fsencode(cwd)], handles)
        except OSError:
            os.close(ours)
            told.close()
            raise
        finally:
            teller.close()
            os.close(stdin)
        return Forked(told, os.fdopen(ours, "w", encoding="utf-8"))

    def kill(self) -> None:
        """End the server, and with it every worker that it has forked. Safe in a signal handler."""
        self._popen.kill()

    def close(self) -> None:
        """End the server and wait for its end."""
        self.kill()
        self._popen.wait()
        self._requests.close()
