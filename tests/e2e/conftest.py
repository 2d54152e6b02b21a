"""One workshop for all end-to-end tests: what one test builds, the next finds in the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.workshop import MODEL, Result, Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def installed() -> str:
    """`pip freeze` before anything was exported."""
    return freeze()


@pytest.fixture(scope="session")
def int4(workshop: Workshop, installed: str) -> Result:
    """The default recipe, from an empty store."""
    result = workshop.export(MODEL, "quant=int4")
    assert result.code == 0, result.out + result.err
    return result


@pytest.fixture
def bench(tmp_path: Path) -> Workshop:
    """A fresh workshop, for requests that fail."""
    return Workshop(tmp_path)


def freeze() -> str:
    """The installed distributions and their versions."""
    return subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
