"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.project import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A fresh folder to run doit in."""
    return Folder(tmp_path)
