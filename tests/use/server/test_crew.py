"""Servers of embeddings and scores under load, and when their engine dies."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.sentence_models import build_product, write_sentence_model
from tests.use.test_serve import _post, serving


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crew")
    return build_product(write_sentence_model("bge", root / "source"), root / "work")


def test_a_full_queue_and_a_dead_engine(product: Path) -> None:
    body = json.dumps({"input": ["a cat sat on the mat"] * 400}).encode()
    with serving(product, "--queue", "0", token="secret") as (url, process):
        assert _post(f"{url}/v1/embeddings", body)[0] == 401

        def ask(_: int = 0) -> int:
            return _post(f"{url}/v1/embeddings", body, Authorization="Bearer secret")[0]

        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(ask, range(4))) == {200, 429}  # one engine, and nobody may wait for it
        (engine,) = psutil.Process(process.pid).children()
        engine.kill()
        assert ask() == 500
        assert ask() == 200  # by a fresh one
