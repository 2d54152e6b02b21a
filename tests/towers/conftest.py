"""What the encoders' tests ask of the folder that their own fixture `work` has made: source/ and product/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.mnn.runner import Engine
from pipeline.verify.product import EXACT
from tests.towers.models import load


@pytest.fixture(scope="module")
def model(work: Path) -> Any:
    """Hugging Face's model in float32."""
    return load(work / "source")


@pytest.fixture
def engine(work: Path) -> Iterator[Engine]:
    """The product on the engine, exact, with one thread."""
    with Engine(work / "product", {**EXACT, "thread_num": 1}) as engine:
        yield engine
