"""Models on ModelScope, through its own library (an extra: it is not needed by anyone else)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Log
from pipeline.errors import UserError
from pipeline.source.digest import DigestMemo
from pipeline.source.directory import describe_files
from pipeline.source.listing import SourceListing
from pipeline.source.select import inside, select_files
from pipeline.source.snapshot import COMMIT, SnapshotRecords


def from_modelscope(model: Mapping[str, Any], cache_dir: Path, memo: DigestMemo, log: Log) -> SourceListing:
    """`model.modelscope_repo` (else `model.repo`) at `model.revision`; "main" means ModelScope's "master".

    UserError when the library is absent, the repository unknown or the hub out of reach.
    """
    repo = str(model.get("modelscope_repo") or model.get("repo") or "")
    revision = str(model.get("revision") or "main")
    revision = "master" if revision == "main" else revision
    if not repo:
        raise UserError("model.modelscope_repo is not set", "add model.modelscope_repo=OWNER/NAME")
    flags = (bool(model.get("trust_remote_code")), bool(model.get("allow_pickle")))
    records = SnapshotRecords(cache_dir, "modelscope", repo, flags)
    if COMMIT.fullmatch(revision) and (known := records.find(revision, memo)):
        return known
    folder, commit, names, expected = _download(repo, revision, flags, log)
    listing = SourceListing(describe_files(folder, names, memo), commit, "modelscope")
    for name, digest in expected.items():
        if listing.files[name].sha256 != digest:
            raise UserError(f"{repo}: {name} arrived damaged", f"delete {listing.files[name].path} and run again")
    records.write(revision, commit, folder, names)
    return listing


def _download(
    repo: str, revision: str, flags: tuple[bool, bool], log: Log
) -> tuple[Path, str, list[str], dict[str, str]]:
    """(snapshot folder, commit, names, sha256 by name where the hub says one)."""
    api, snapshot_download = _library()
    cache = os.environ.get("MODELSCOPE_CACHE") or None
    try:
        # The raw entries: the library's own FileInfo leaves the commit out.
        entries = api().legacy.list_repo_files(repo, "model", revision=revision, recursive=False)
        files = {inside(entry["Path"], repo): entry for entry in entries if entry.get("Type") != "tree"}
        commit = _commit(files, revision)
        index = [name for name in files if name.endswith(".index.json")]
        indices = snapshot_download(repo, revision=revision, cache_dir=cache, allow_patterns=index) if index else ""
        names = select_files(files, lambda name: Path(indices, name).read_bytes(), f"{repo}@{revision}", *flags)
        log.note(f"{repo} at {commit}: {len(names)} files")
        folder = Path(snapshot_download(repo, revision=revision, cache_dir=cache, allow_patterns=names))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exceptions, requests' and its own: all mean one thing here
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"ModelScope could not give {repo}@{revision} ({reason})",
            "check model.modelscope_repo, model.revision and the network, or use model.path=DIR",
        ) from error
    return folder, commit, names, {name: files[name]["Sha256"] for name in names if files[name].get("Sha256")}


def _commit(files: Mapping[str, Mapping[str, Any]], revision: str) -> str:
    """ModelScope has no call that resolves a branch; the newest committed file's commit stands for its state."""
    newest = max(files.values(), key=lambda entry: (entry.get("CommittedDate", 0), str(entry["Path"])), default=None)
    return str(newest["Revision"]) if newest and newest.get("Revision") else revision


def _library() -> tuple[Any, Any]:
    try:
        download = importlib.import_module("modelscope.hub.snapshot_download")
        api = importlib.import_module("modelscope_hub.api")
    except ImportError as error:
        raise UserError(
            "model.hub=modelscope needs the modelscope library, which is not installed",
            "run: pip install modelscope",
        ) from error
    return api.HubApi, download.snapshot_download
