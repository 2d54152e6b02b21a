"""Linears that are some rows of a fused matrix: calibrated as the whole matrix is, since rows do not meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.calibrate import statistics
from pipeline.calibrate.gptq import Solution
from pipeline.calibrate.solve import solve_layers
from pipeline.calibrate.stream import Stream
from pipeline.weights.layout import Linear, Part
from pipeline.weights.precision import Precision

FUSED = "model.layers.0.self_attn.q_proj"
# The rows of each half, two runs of them: as a fused matrix of queries and gates is cut, head by head.
HALVES = {f"{FUSED}.0": ((0, 16), (32, 48)), f"{FUSED}.1": ((16, 32), (48, 64))}
ROWS = {name: np.concatenate([np.arange(*run) for run in runs]) for name, runs in HALVES.items()}


def quiet(done: int, total: int, what: str) -> None:
    assert 0 < done <= total


@pytest.fixture
def split(linears: list[Linear]) -> list[Linear]:
    whole = next(linear for linear in linears if linear.name == FUSED)
    tensor = whole.parts[0].tensor
    halves = [
        replace(whole, name=name, out_features=32, parts=tuple(Part(tensor, rows=run) for run in runs))
        for name, runs in HALVES.items()
    ]
    return [*(linear for linear in linears if linear.name != FUSED), *halves]


def _solutions(stream: Stream, linears: list[Linear], sequences: list[list[int]]) -> dict[str, Solution]:
    found: dict[str, Solution] = {}
    precisions = {one.name: Precision(3, 32, algorithm="gptq") for one in linears}
    solve_layers(stream, linears, precisions, sequences, "lm_head", True, found.__setitem__, quiet)
    return found


def test_gptq_finds_the_same_codes(
    stream: Stream, linears: list[Linear], split: list[Linear], sequences: list[list[int]]
) -> None:
    whole, parts = _solutions(stream, linears, sequences), _solutions(stream, split, sequences)
    for name, rows in ROWS.items():
        assert np.array_equal(parts[name].codes, whole[FUSED].codes[rows])
        assert np.array_equal(parts[name].scale, whole[FUSED].scale[rows])
    # Later linears see the quantised halves as they would see the quantised whole.
    for name in set(whole) - {FUSED}:
        assert np.array_equal(parts[name].codes, whole[name].codes)


def test_importance_is_that_of_the_whole(
    stream: Stream, linears: list[Linear], split: list[Linear], sequences: list[list[int]]
) -> None:
    whole = statistics.importance(stream, linears, sequences, "lm_head", quiet)
    parts = statistics.importance(stream, split, sequences, "lm_head", quiet)
    assert all(np.array_equal(parts[name], whole[FUSED]) for name in HALVES)


def test_sensitivities_are_the_rows_own(
    stream: Stream, linears: list[Linear], split: list[Linear], sequences: list[list[int]]
) -> None:
    _, whole = statistics.sensitivities(stream, linears, sequences[:2], "lm_head", 3, quiet)
    _, parts = statistics.sensitivities(stream, split, sequences[:2], "lm_head", 3, quiet)
    assert all(np.array_equal(parts[name], whole[FUSED][rows]) for name, rows in ROWS.items())


def test_rows_of_several_tensors_have_no_known_place(
    stream: Stream, split: list[Linear], sequences: list[list[int]]
) -> None:
    odd = [
        replace(one, parts=(one.parts[0], Part("model.layers.1.self_attn.q_proj.weight", rows=(0, 16))))
        if one.name == f"{FUSED}.1"
        else one
        for one in split
    ]
    _, found = statistics.sensitivities(stream, odd, sequences[:1], "lm_head", 3, quiet)
    assert f"{FUSED}.1" not in found and f"{FUSED}.0" in found


def test_a_numbered_module_is_itself() -> None:
    assert statistics.module_path("a.0", {"a", "a.0"}) == "a.0"
    assert statistics.module_path("a.0", {"a"}) == "a"
