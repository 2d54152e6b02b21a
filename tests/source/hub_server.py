"""A hub on loopback: the few calls of the Hugging Face hub's API that its client makes to look up and fetch a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin")


@dataclass
class Hub:
    """repos: repository → file name → content. requests: (method, path) of each call. damage: names served wrongly."""

    repos: dict[str, dict[str, bytes]]
    url: str = ""
    commit: str = COMMIT
    gated: set[str] = field(default_factory=set)
    damage: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def downloads(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [path.rsplit("/", 1)[1] for method, path in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def serve(repos: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """Serve `repos` on a free port of 127.0.0.1 until the block ends."""
    hub = Hub(repos)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def entry(name: str, content: bytes, key: str) -> dict[str, object]:
    """A file as the API lists it; `key` is "rfilename" (model info) or "path" (tree)."""
    listed: dict[str, object] = {key: name, "size": len(content), "blobId": _oid(content), "oid": _oid(content)}
    if name.endswith(LFS_SUFFIXES):
        digest = hashlib.sha256(content).hexdigest()
        listed["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 134}
    return listed | ({"type": "file"} if key == "path" else {})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(send_body=True)

        def do_HEAD(self) -> None:
            self._answer(send_body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, send_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            status, headers, body = _route(hub, path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body)), "X-Repo-Commit": hub.commit}.items():
                self.send_header(name, value)
            self.end_headers()
            if send_body:
                self.wfile.write(body)

    return Handler


def _route(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "models"]:
        return _api(hub, "/".join(parts[2:4]), parts[4:])
    repo, rest = "/".join(parts[:2]), parts[2:]
    content = hub.repos.get(repo, {}).get("/".join(rest[2:]))
    if content is None or rest[1] not in ("main", hub.commit):
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    etag = hashlib.sha256(content).hexdigest() if rest[-1].endswith(LFS_SUFFIXES) else _oid(content)
    body = bytes(len(content)) if rest[-1] in hub.damage else content
    return 200, {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}, body


def _api(hub: Hub, repo: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
    if repo in hub.gated:
        return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
    if repo not in hub.repos:
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
    if rest and rest[1] not in ("main", hub.commit):
        return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
    files = hub.repos[repo]
    if rest and rest[0] == "tree":
        return _json([entry(name, content, "path") for name, content in files.items()])
    siblings = [entry(name, content, "rfilename") for name, content in files.items()]
    return _json({"id": repo, "sha": hub.commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0})


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
