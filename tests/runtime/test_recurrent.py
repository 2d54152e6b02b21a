"""Which keys a model with a recurrent state cannot have."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.runtime.check import check
from pipeline.runtime.recurrent import check_recurrent


@pytest.mark.parametrize(
    "values",
    [{"speculative_type": "lookahead"}, {"chunk_limits": [128, 1]}, {"chunk": 1}],
)
def test_a_key_that_would_spoil_the_state_is_named(values: dict[str, Any]) -> None:
    assert not check(values), "the engine reads it, and other models may have it"
    (line,) = check_recurrent(values)
    assert line.startswith(f"{next(iter(values))}: ")


def test_others_may_stay() -> None:
    assert check_recurrent({"reuse_kv": True, "chunk": 128, "speculative_type": "", "chunk_limits": []}) == []


@pytest.mark.parametrize(("engine", "wrong"), [("3.6.1", False), ("3.7.0", False), ("3.6.0", True), ("3.4.1", True)])
def test_older_engines_are_not_known_to_run_it(engine: str, wrong: bool) -> None:
    assert any("older than 3.6.1" in line for line in check_recurrent({}, engine)) is wrong
