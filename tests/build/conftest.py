"""Fixtures of the build engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.project import Project, forget_modules


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A fresh toy project; its modules are forgotten afterwards."""
    yield Project(tmp_path, monkeypatch)
    forget_modules()
