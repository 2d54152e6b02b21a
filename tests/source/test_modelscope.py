"""ModelScope: the line for a machine without its library, and the real library against a hub on loopback."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pipeline.errors import UserError
from pipeline.source import resolve
from tests.source.conftest import KeptLog

INSTALLED = importlib.util.find_spec("modelscope") is not None
MODEL = {"hub": "modelscope", "modelscope_repo": "owner/name", "repo": "other/name", "revision": "main"}
COMMIT = "ab" * 20


@pytest.mark.skipif(INSTALLED, reason="the modelscope library is installed")
def test_without_the_library_the_line_names_it(tmp_path: Path, log: KeptLog) -> None:
    with pytest.raises(UserError, match="not installed") as caught:
        resolve(MODEL, tmp_path, log)
    assert caught.value.next_step == "run: pip install modelscope"


def test_repository_must_be_named(tmp_path: Path, log: KeptLog) -> None:
    with pytest.raises(UserError, match="modelscope_repo is not set"):
        resolve({"hub": "modelscope"}, tmp_path, log)


@pytest.fixture
def hub(
    model_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[str, str]]]:
    """The calls of ModelScope's API that its library makes; gives the requests."""
    pytest.importorskip("modelscope")
    requests: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(True)

        def do_HEAD(self) -> None:
            self._answer(False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, send_body: bool) -> None:
            status, body = route(self.path, model_files)
            requests.append((self.command, self.path))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if send_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "hub"))
    yield requests
    server.shutdown()
    server.server_close()


def route(target: str, files: dict[str, bytes]) -> tuple[int, bytes]:
    url = urlsplit(target)
    path, query = unquote(url.path), parse_qs(url.query)
    if "/owner/name" not in path:
        return 404, json.dumps({"Code": 404, "Message": "not found", "Success": False}).encode()
    if path.endswith("/repo/files"):
        listed = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(content), "Revision": COMMIT,
             "CommittedDate": 1700000000, "Sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items() if "/" not in name]  # fmt: skip
        return 200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": listed}}).encode()
    name = query.get("FilePath", [path.rsplit("/", 1)[-1]])[0]
    if name in files:
        return 200, files[name]
    return 200, json.dumps({"Code": 200, "Success": True, "Data": {}}).encode()


def test_needed_files_come_with_the_commit(
    hub: list[tuple[str, str]], model_files: dict[str, bytes], tmp_path: Path, log: KeptLog
) -> None:
    listing = resolve(MODEL, tmp_path / "cache", log)
    assert listing.revision == COMMIT and listing.kind == "modelscope"
    assert "README.md" not in listing.files and "model.safetensors" in listing.files
    for name, file in listing.files.items():
        assert file.path.read_bytes() == model_files[name]
    assert not any("pytorch_model" in target for _, target in hub)


def test_unknown_repository(hub: list[tuple[str, str]], tmp_path: Path, log: KeptLog) -> None:
    with pytest.raises(UserError, match="ModelScope could not give owner/other@master") as caught:
        resolve({**MODEL, "modelscope_repo": "owner/other"}, tmp_path / "cache", log)
    assert "\n" not in str(caught.value)
