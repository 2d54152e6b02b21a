"""Models on the Hugging Face hub, or on any server that speaks its API (HF_ENDPOINT): the needed files, at a commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.build.stage import Log
from pipeline.errors import UserError
from pipeline.source.digest import DigestMemo
from pipeline.source.directory import describe_files
from pipeline.source.listing import SourceListing
from pipeline.source.select import inside, select_files
from pipeline.source.snapshot import COMMIT, SnapshotRecords


def from_hub(model: Mapping[str, Any], cache_dir: Path, memo: DigestMemo, log: Log) -> SourceListing:
    """`model.repo` at `model.revision`. A branch or tag is resolved to its commit first; files land in the hub
    library's own cache (HF_HOME), where other tools find them too. UserError for an unknown repository or revision,
    a gated one, or a hub out of reach."""
    repo, revision = str(model.get("repo") or ""), str(model.get("revision") or "main")
    flags = (bool(model.get("trust_remote_code")), bool(model.get("allow_pickle")))
    if not repo:
        raise UserError("model.repo is not set, so the hub has nothing to fetch", "add model.repo=OWNER/NAME")
    records = SnapshotRecords(cache_dir, "huggingface", repo, flags)
    if COMMIT.fullmatch(revision) and (known := records.find(revision, memo)):
        return known
    with _readable_errors(repo, revision, records):
        folder, commit, names, expected = _download(repo, revision, flags, log)
    listing = SourceListing(describe_files(folder, names, memo), commit, "huggingface")
    _check(listing, expected, repo)
    records.write(revision, commit, folder, names)
    return listing


def _download(
    repo: str, revision: str, flags: tuple[bool, bool], log: Log
) -> tuple[Path, str, list[str], dict[str, str]]:
    """(snapshot folder, commit, names, the hub's sha256 by name where it knows one)."""
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    cache = os.environ.get("HF_HUB_CACHE") or None
    info = huggingface_hub.HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True)
    commit = info.sha or ""
    siblings = {inside(file.rfilename, repo): file for file in info.siblings or ()}

    def read(name: str) -> bytes:
        path = huggingface_hub.hf_hub_download(repo, name, revision=commit, endpoint=endpoint, cache_dir=cache)
        return Path(path).read_bytes()

    names = select_files(siblings, read, f"{repo}@{commit[:8]}", *flags)
    size = sum(siblings[name].size or 0 for name in names)
    log.note(f"{repo} at {commit}: {len(names)} files, {size / 1e6:.1f} MB")
    folder = huggingface_hub.snapshot_download(
        repo, revision=commit, allow_patterns=names, endpoint=endpoint, cache_dir=cache
    )
    expected = {name: str(lfs.sha256) for name in names if (lfs := siblings[name].lfs) is not None}
    return Path(folder), commit, names, expected


def _check(listing: SourceListing, expected: Mapping[str, str], repo: str) -> None:
    """The bytes on the disk are those that the hub's LFS metadata names."""
    for name, digest in expected.items():
        file = listing.files[name]
        if file.sha256 != digest:
            raise UserError(
                f"{repo}: {name} arrived damaged (sha256 {file.sha256[:12]}…, the hub says {digest[:12]}…)",
                f"delete {file.path} and run again",
            )


@contextmanager
def _readable_errors(repo: str, revision: str, records: SnapshotRecords) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: its owner asks you to accept terms first",
            "accept them on the model's page, then set HF_TOKEN",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"the hub knows no model {repo} (or it is private)", "check model.repo, or set HF_TOKEN for a private one"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{repo} has no revision {revision}", "set model.revision to a branch, tag or commit"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"model.repo={repo} is not a repository's name", "write it as OWNER/NAME") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{repo}@{revision}: a file that the hub lists is not there", "try another revision") from error
    except (OSError, errors.LocalEntryNotFoundError) as error:
        raise _out_of_reach(repo, records.last_commit(revision), error) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        raise _out_of_reach(repo, records.last_commit(revision), error) from error


def _out_of_reach(repo: str, commit: str, error: Exception) -> UserError:
    endpoint = os.environ.get("HF_ENDPOINT") or "the hub"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    here = f"say model.revision={commit} to build from the copy here"
    step = here if commit else "model.path=DIR for a copy on this disk"
    return UserError(
        f"{endpoint} is out of reach, so {repo} cannot be fetched ({reason})",
        f"check the network, HF_ENDPOINT for a mirror, or {step}",
    )
