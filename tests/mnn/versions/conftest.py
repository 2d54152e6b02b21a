"""The runner's tiny product; other engines come from pip, or the test is skipped where pip reaches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.mnn.versions.environment import Unreachable, interpreter
from tests.mnn.conftest import model, product

__all__ = ["model", "product"]


def python_of(version: str) -> Path:
    """The interpreter of another engine version."""
    try:
        return interpreter(version, print)
    except Unreachable as error:
        pytest.skip(str(error))
