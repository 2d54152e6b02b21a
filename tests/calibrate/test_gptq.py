"""GPTQ against its textbook form (one column after the other through the inverse Hessian), and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.calibrate import gptq
from pipeline.errors import StageFailed
from pipeline.weights.precision import Precision

RNG = np.random.default_rng(11)
MIX = RNG.standard_normal((96, 96)) * np.exp(RNG.standard_normal(96))
INPUTS = (RNG.standard_normal((600, 96)) @ MIX).astype(np.float32)
HESSIAN = (INPUTS.T @ INPUTS / len(INPUTS)).astype(np.float32)
WEIGHTS = RNG.standard_normal((40, 96)).astype(np.float32)


def output_error(restored: np.ndarray) -> float:
    return float(np.square(INPUTS @ (restored - WEIGHTS).T, dtype=np.float64).mean())


def textbook(solution: gptq.Solution, precision: Precision, act_order: bool) -> np.ndarray:
    """Optimal brain quantisation, columns in order: round one, correct the rest by H⁻¹, drop it from H⁻¹ (float64)."""
    damped = HESSIAN.astype(np.float64) + 0.01 * HESSIAN.diagonal().mean() * np.eye(96)
    inverse = np.linalg.inv(damped)
    weights, codes = WEIGHTS.astype(np.float64).copy(), np.zeros(WEIGHTS.shape, int)
    order = np.argsort(-HESSIAN.diagonal(), kind="stable") if act_order else range(96)
    left = np.ones(96, bool)
    for j in order:
        scale, zero = solution.scale[:, j // precision.block], solution.zero[:, j // precision.block]
        steps = np.clip(np.rint((weights[:, j] - zero) / scale), precision.least, precision.most)
        codes[:, j] = steps + precision.half
        error = (weights[:, j] - (steps * scale + zero)) / inverse[j, j]
        left[j] = False
        weights[:, left] -= np.outer(error, inverse[j, left])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("precision", [Precision(4, 32), Precision(3, 48), Precision(4, 96, symmetric=True)])
def test_same_codes_as_the_textbook(act_order: bool, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "COLUMNS", 20)
    solution = gptq.solve(WEIGHTS, HESSIAN, precision, "t", act_order)
    expected = textbook(solution, precision, act_order)
    assert (solution.codes == expected).mean() > 0.995  # float32 may tip a tie, and then what follows it


def test_output_error_is_far_below_rounding_on_the_same_grid() -> None:
    precision = Precision(4, 32)
    solution = gptq.solve(WEIGHTS, HESSIAN, precision, "t")
    blocks = WEIGHTS.reshape(40, 3, 32)
    steps = np.rint((blocks - solution.zero[:, :, None]) / solution.scale[:, :, None])
    nearest = np.clip(steps, -8, 7) * solution.scale[:, :, None] + solution.zero[:, :, None]
    assert output_error(solution.dequantised(precision)) < 0.7 * output_error(nearest.reshape(40, 96))


def test_scales_are_what_float16_holds() -> None:
    solution = gptq.solve(WEIGHTS, HESSIAN, Precision(4, 32), "t")
    for values in (solution.scale, solution.zero):
        assert np.array_equal(values.astype(np.float16).astype(np.float32), values)


def test_inputs_that_never_fire_do_not_break_it() -> None:
    hessian = HESSIAN.copy()
    hessian[:, 5] = hessian[5] = 0
    solution = gptq.solve(WEIGHTS, hessian, Precision(8, 32), "t")
    restored = solution.dequantised(Precision(8, 32))
    assert np.abs(restored - WEIGHTS)[:, 5].max() < 0.5  # it may be clipped, for no output depends on it
    inputs, others = np.delete(INPUTS, 5, 1), np.arange(96) != 5
    miss, right = (inputs @ values[:, others].T for values in (restored - WEIGHTS, WEIGHTS))
    assert np.square(miss).mean() < 1e-3 * np.square(right).mean()


def test_infinite_statistics_name_the_linear() -> None:
    with pytest.raises(StageFailed, match=r"'layers\.0\.up' to infinity"):
        gptq.solve(WEIGHTS, np.full_like(HESSIAN, np.inf), Precision(4, 32), "layers.0.up")


def test_any_thread_count_of_numpy_callers_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = gptq.solve(WEIGHTS, HESSIAN, Precision(4, 32), "t")
    assert torch.get_num_threads() == 1
    again = gptq.solve(WEIGHTS, HESSIAN, Precision(4, 32), "t")
    assert np.array_equal(first.codes, again.codes)
