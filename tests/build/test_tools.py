"""Versions without imports: the same as importlib.metadata says."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import pytest

from pipeline.build.tools import version, versions
from pipeline.errors import UserError


@pytest.mark.parametrize("tool", ["torch", "MNN", "mnn", "ml_dtypes", "ml-dtypes", "hydra-core", "Jinja2"])
def test_the_version_is_that_of_the_installed_distribution(tool: str) -> None:
    assert version(tool) == importlib.metadata.version(tool)


def test_python_and_the_machine_belong_to_every_key() -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert versions([]) == {"python": python, "machine": platform.machine()}


def test_a_tool_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"no-such-tool is not installed.*pip install no-such-tool"):
        versions(["no-such-tool"])
