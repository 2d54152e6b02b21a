"""The real huggingface_hub client against a small hub on loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.errors import UserError
from pipeline.source import resolve
from tests.source.conftest import KeptLog
from tests.source.hub_server import COMMIT, Hub, serve

NEEDED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
MODEL = {"hub": "huggingface", "repo": "owner/name", "revision": "main"}


@pytest.fixture
def hub(model_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve({"owner/name": model_files}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def test_branch_is_resolved_and_only_needed_files_are_fetched(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    listing = resolve(MODEL, tmp_path / "cache", log)
    assert listing.revision == COMMIT and listing.kind == "huggingface"
    assert sorted(listing.files) == NEEDED
    assert sorted(hub.downloads()) == NEEDED
    for name, file in listing.files.items():
        content = hub.repos["owner/name"][name]
        assert file.path.read_bytes() == content
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert any(COMMIT in note for note in log.notes)


def test_remote_code_is_fetched_only_when_asked_for(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    listing = resolve({**MODEL, "trust_remote_code": True}, tmp_path / "cache", log)
    assert "modeling_own.py" in listing.files


def test_sharded_weights_come_by_the_index(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    files = hub.repos["owner/name"]
    del files["model.safetensors"]
    shards = {f"model-0000{i}-of-00002.safetensors": save({f"t{i}": np.ones(3, np.float32)}) for i in (1, 2)}
    index = {"weight_map": {f"t{i}": name for i, name in enumerate(shards, 1)}}
    files |= shards | {"model.safetensors.index.json": json.dumps(index).encode(), "extra.safetensors": b"other"}
    listing = resolve(MODEL, tmp_path / "cache", log)
    assert {name for name in listing.files if name.endswith(".safetensors")} == set(shards)
    assert "extra.safetensors" not in hub.downloads()


def test_index_that_leaves_the_folder_is_refused(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    files = hub.repos["owner/name"]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../secret.safetensors"}}).encode()
    with pytest.raises(UserError, match="outside the model's folder"):
        resolve(MODEL, tmp_path / "cache", log)


def test_pinned_commit_needs_no_hub_a_second_time(
    hub: Hub, tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve(MODEL, tmp_path / "cache", log)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    pinned = resolve({**MODEL, "revision": COMMIT}, tmp_path / "cache", log)
    assert pinned.digest == first.digest and pinned.revision == COMMIT


def test_known_pinned_commit_does_not_load_the_hub_library(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    resolve(MODEL, tmp_path / "cache", log)
    code = (
        "import sys; from pathlib import Path; from pipeline.source import resolve\n"
        f"found = resolve({ {**MODEL, 'revision': COMMIT}!r}, Path({str(tmp_path / 'cache')!r}), None)\n"
        "assert found.files and 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_pinned_commit_is_fetched_again_when_a_file_is_gone(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    listing = resolve(MODEL, tmp_path / "cache", log)
    snapshot = next((tmp_path / "hub").glob("**/snapshots/*/config.json"))
    snapshot.unlink()
    again = resolve({**MODEL, "revision": COMMIT}, tmp_path / "cache", log)
    assert again.digest == listing.digest


def test_branch_that_moved_is_seen(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    before = resolve(MODEL, tmp_path / "cache", log)
    hub.commit = "f" * 40
    hub.repos["owner/name"]["config.json"] = b'{"model_type": "qwen2"}'
    after = resolve(MODEL, tmp_path / "cache", log)
    assert after.revision == "f" * 40 and after.digest != before.digest


def test_damaged_download_is_found(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    hub.damage.add("model.safetensors")
    with pytest.raises(UserError, match="arrived damaged"):
        resolve(MODEL, tmp_path / "cache", log)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": "owner/nothing"}, "knows no model owner/nothing"),
        ({"repo": "owner/closed"}, "owner/closed is gated"),
        ({"revision": "v9"}, "has no revision v9"),
        ({"repo": "not a name!"}, "not a repository's name"),
        ({"repo": ""}, "model.repo is not set"),
    ],
)
def test_mistakes_are_one_line(hub: Hub, tmp_path: Path, log: KeptLog, change: dict[str, str], message: str) -> None:
    hub.gated.add("owner/closed")
    with pytest.raises(UserError, match=message) as caught:
        resolve({**MODEL, **change}, tmp_path / "cache", log)
    assert "\n" not in str(caught.value) and caught.value.next_step


def test_hub_out_of_reach(tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError, match="out of reach") as caught:
        resolve(MODEL, tmp_path / "cache", log)
    assert "\n" not in str(caught.value) and "model.path" in caught.value.next_step


def test_hub_out_of_reach_names_the_commit_that_is_here(
    hub: Hub, tmp_path: Path, log: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(MODEL, tmp_path / "cache", log)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"model.revision={COMMIT}"):
        resolve(MODEL, tmp_path / "cache", log)


def test_pickle_only_repository_is_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path, log: KeptLog) -> None:
    del hub.repos["owner/name"]["model.safetensors"]
    with pytest.raises(UserError, match="pickle"):
        resolve(MODEL, tmp_path / "cache", log)
    assert hub.downloads() == []
