"""A process that imports modules once and forks workers: `python -m pipeline.build.fork_server FD PARENT MODULE…`.

Each message on the socket FD asks for one worker. It carries five handles: a socket on which the worker's pid and then
its exit status are told (one line each), the worker's stdin, its log, the pipe of its messages and its lifeline.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress

from pipeline.build import worker
from pipeline.build.lifeline import die_with_parent

HANDLES = 5
LONGEST_PATH = 4096  # limits.h, PATH_MAX


class ForkServer:
    """Forks when it is asked to, and tells how its children ended."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._children: dict[int, socket.socket] = {}
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # or the number would not be written
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the asking side is closed."""
        selector = selectors.DefaultSelector()
        selector.register(self._requests, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if self._woken in ready:
                self._woken.recv(LONGEST_PATH)
                self._reap()
            if self._requests in ready and not self._fork():
                return

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (teller := self._children.pop(pid, None)) is not None:
                _tell(teller, os.waitstatus_to_exitcode(status))
                teller.close()

    def _fork(self) -> bool:
        cwd, handles, _, _ = socket.recv_fds(self._requests, LONGEST_PATH, HANDLES)
        if not cwd:
            return False
        teller, server = socket.socket(fileno=handles[0]), os.getpid()
        pid = os.fork()
        if not pid:
            self._become_worker(teller, cwd, handles[1:], server)
        for handle in handles[1:]:
            os.close(handle)
        self._children[pid] = teller
        return True

    def _become_worker(self, teller: socket.socket, cwd: bytes, handles: list[int], server: int) -> None:
        """Never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _tell(teller, os.getpid())
            for end in (teller, self._requests, self._woken, self._waker, *self._children.values()):
                end.close()
            stdin, log, messages, lifeline = handles
            for handle, standard in ((stdin, 0), (log, 1), (log, 2)):
                os.dup2(handle, standard)
            os.close(stdin)
            os.close(log)
            os.chdir(cwd)
            worker.main([str(messages), str(server), str(lifeline)])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def _tell(teller: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for this worker any more
        teller.sendall(b"%d\n" % number)


def main(arguments: list[str]) -> None:
    """Serve the socket whose handle is the first argument. The second is the starter's pid."""
    worker.with_few_collections()
    die_with_parent(int(arguments[1]))
    server = ForkServer(socket.socket(fileno=int(arguments[0])))
    for module in arguments[2:]:
        try:
            importlib.import_module(module)
        except Exception:
            traceback.print_exc()  # the worker that needs it fails in the same way, and its failure is reported
    gc.freeze()  # a collection in a child would write to, and so copy, every page of what is imported
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
