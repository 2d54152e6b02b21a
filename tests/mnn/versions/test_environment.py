"""Isolated environments: what is no version, what has no wheel, no network, and that one is made only once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.mnn.versions.environment import Unreachable, cache_folder, interpreter
from tests.mnn.versions.conftest import python_of


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip with one index, a port of this machine at which nobody listens."""
    settings = {
        "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0",
        "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("text", ["3.6", "latest", "3.6.1; rm -rf", "../3.6.1", ""])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(UserError, match="is not an engine version"):
        interpreter(text, print)


def test_a_version_without_a_wheel_names_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        with pytest.raises(UserError, match=r"there is no MNN 3\.99\.0 for this Python → choose from .*3\.6\.1"):
            interpreter("3.99.0", print)
    except Unreachable as error:
        pytest.skip(str(error))
    assert [path.suffix for path in cache_folder().iterdir()] == [".lock"]


@pytest.mark.usefixtures("offline")
def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Unreachable, match="no index answers"):
        interpreter("3.4.0", print)
    assert [path.suffix for path in cache_folder().iterdir()] == [".lock"]


@pytest.mark.slow
def test_an_environment_is_made_once_and_holds_that_engine_only(request: pytest.FixtureRequest) -> None:
    python = python_of("3.4.0")
    script = "from importlib.metadata import *; print(sorted(d.name for d in distributions()), version('MNN'))"
    found = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "['mnn', 'numpy'] 3.4.0"
    request.getfixturevalue("offline")
    said: list[str] = []
    assert interpreter("3.4.0", said.append) == python
    assert said == []
