"""What is known of a hub's files at a commit without fetching them: a commit's files never change.

So a machine that has a product's records (its own, or a remote's) needs no weights to know that the product is a hit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.build.canonical import digest
from pipeline.build.nodes import SourceNode
from pipeline.build.store import Blob, Record

STAGE = "source"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_IDENTITY = ("hub", "repo", "modelscope_repo", "revision", "trust_remote_code", "allow_pickle")


def pinned_key(node: SourceNode) -> str | None:
    """The key of the listing's record, or None for a source that may change: a branch, a folder, a file."""
    if not of_a_hub(node) or not _COMMIT.fullmatch(str(node.spec.get("revision", ""))):
        return None
    return digest("source-action", ingredients(node))


def last_key(node: SourceNode) -> str | None:
    """The key of what a hub's branch was when it was last looked up here; for plans only. None for what is no hub's."""
    return digest("source-last", ingredients(node)) if of_a_hub(node) else None


def of_a_hub(node: SourceNode) -> bool:
    """Whether looking the files up may take a network, or a download."""
    spec = node.spec
    local = spec.get("path") or spec.get("gptq_path") or spec.get("hub") not in ("huggingface", "modelscope")
    return node.name == STAGE and not local


def ingredients(node: SourceNode) -> dict[str, Any]:
    """What decides the listing of a pinned source."""
    return {name: node.spec.get(name, "") for name in _IDENTITY}


def listing_record(node: SourceNode, key: str, files: Mapping[str, Blob], revision: str, kind: str) -> Record:
    """A record whose blobs are in no store: they are the hub's."""
    figures = {"revision": revision, "kind": kind}
    return Record(key, STAGE, node.label, ingredients(node), dict(files), figures=figures)
