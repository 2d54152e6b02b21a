"""A page in headless Chromium, driven by the DevTools protocol over two pipes: no driver and no package is needed."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Nothing of the browser's own may talk to the outside.
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)

# The browser reads its orders from descriptor 3 and answers on 4.
_START = """
import fcntl, os, sys
orders, answers = (fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3])
os.dup2(orders, 3)
os.dup2(answers, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """The browser's command, if this machine has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab. profile: a new folder for what the browser writes."""

    def __init__(self, command: str, profile: Path) -> None:
        self._number = 0
        self._held = b""
        self.exceptions: list[str] = []
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), command, *_OPTIONS,
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Runtime.enable", self._session)

    def open(self, url: str) -> None:
        """Goes to `url` and waits until the document is complete."""
        assert "errorText" not in self._call("Page.navigate", self._session, url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression. An exception in it fails the test."""
        reply = self._call("Runtime.evaluate", self._session, expression=script, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"{script} did not come true; the page shows: {self.run(_TEXT)!r}"
            time.sleep(0.02)

    def type(self, selector: str, text: str) -> None:
        """Keys pressed in an element that has the focus after a click on it."""
        self.click(selector)
        self._call("Input.insertText", self._session, text=text)

    def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", self._session, type=kind, **key)

    def click(self, selector: str) -> None:
        """A real click in the middle of the element; it must be what lies there."""
        box = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        where = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", self._session, type=kind, **where)

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait(10)

    def _call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("method") == "Runtime.exceptionThrown":
                self.exceptions.append(str(reply["params"]["exceptionDetails"].get("exception", reply)))
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            assert select.select([self._in], [], [], 30.0)[0], "the browser does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has gone"
            self._held += data
        text, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(text))


_TEXT = "document.body ? document.body.innerText : ''"
