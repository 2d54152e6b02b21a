"""Two builds in two folders, with other threads, hash seed and time zone, give the same bytes for every file."""

from __future__ import annotations

import json

import pytest

from tests.tasks.project import Folder


def test_folders_threads_hash_seeds_and_time_zones_do_not_count(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Folder(tmp_path_factory.mktemp("a much longer name") / "deeper")
    assert folder.doit("export", "-n", "1", PYTHONHASHSEED="1", TZ="UTC")[0] == 0
    assert other.doit("export", "-n", "2", PYTHONHASHSEED="2", TZ="Asia/Kathmandu", LC_ALL="C")[0] == 0
    ours, theirs = folder.content(), other.content()
    manifests = [json.loads(content.pop("manifest.json")) for content in (ours, theirs)]
    assert ours == theirs
    for manifest in manifests:
        del manifest["config"]["model"]["path"], manifest["key"]
    assert manifests[0] == manifests[1]
