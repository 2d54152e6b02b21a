"""KL divergence and agreement against torch's own, on random logits; shapes and values that must be refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.verify.metrics import ROWS, Agreement, compare_logits, kl_divergence, log_softmax, pooled


def logits(rows: int, columns: int = 97, seed: int = 0, scale: float = 4.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * scale).astype(np.float32)


def torch_kld(reference: np.ndarray, engine: np.ndarray) -> np.ndarray:
    p = torch.log_softmax(torch.from_numpy(reference).double(), -1)
    q = torch.log_softmax(torch.from_numpy(engine).double(), -1)
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).numpy()


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
def test_divergence_equals_torchs(rows: int) -> None:
    reference, engine = logits(rows, seed=1), logits(rows, seed=2)
    agreement = compare_logits(reference, engine)
    expected = torch_kld(reference, engine)
    np.testing.assert_allclose(agreement.divergences, expected, rtol=1e-10)
    assert agreement.kld_mean == pytest.approx(expected.mean(), rel=1e-10)
    assert agreement.kld_p99 == pytest.approx(np.quantile(expected, 0.99), rel=1e-10)


def test_tiny_differences_survive_the_chunked_float64_sum() -> None:
    reference = logits(40, columns=49152, seed=3)
    engine = reference + np.float32(1e-3) * logits(40, columns=49152, seed=4, scale=1.0)
    expected = torch_kld(reference, engine).mean()
    assert 0 < expected < 1e-6
    assert compare_logits(reference, engine).kld_mean == pytest.approx(expected, rel=1e-6)


def test_log_softmax_equals_torchs_for_huge_logits() -> None:
    values = logits(3, scale=4000.0).astype(np.float64)
    np.testing.assert_allclose(log_softmax(values), torch.log_softmax(torch.from_numpy(values), -1).numpy(), rtol=1e-12)


def test_equal_logits_agree_entirely() -> None:
    reference = logits(20)
    agreement = compare_logits(reference, reference.copy())
    assert (agreement.kld_mean, agreement.top1, agreement.max_error) == (0.0, 1.0, 0.0)
    assert agreement.relative_error == 0.0


def test_a_constant_offset_changes_logits_but_no_probability() -> None:
    reference = logits(20)
    agreement = compare_logits(reference, reference + np.float32(2.0))
    assert agreement.kld_mean == pytest.approx(0.0, abs=1e-12)
    assert agreement.top1 == 1.0
    assert agreement.max_error == pytest.approx(2.0, abs=1e-5)


def test_top1_counts_the_positions_that_differ() -> None:
    reference = np.eye(8, dtype=np.float32)
    engine = reference.copy()
    engine[[1, 5]] = engine[[5, 1]]
    assert compare_logits(reference, engine).top1 == 0.75


def test_relative_error_is_a_share_of_the_largest_logit() -> None:
    reference = np.array([[-50.0, 1.0], [2.0, 3.0]], np.float32)
    engine = reference.copy()
    engine[1, 0] += 0.5
    agreement = compare_logits(reference, engine)
    assert agreement.max_error == 0.5
    assert agreement.relative_error == 0.01


def test_direction_of_the_divergence_is_reference_to_engine() -> None:
    reference, engine = logits(1, seed=5), logits(1, seed=6)
    forward = kl_divergence(reference.astype(np.float64), engine.astype(np.float64))[0]
    backward = kl_divergence(engine.astype(np.float64), reference.astype(np.float64))[0]
    assert forward == pytest.approx(torch_kld(reference, engine)[0])
    assert abs(forward - backward) > 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_and_not_an_average(bad: float) -> None:
    reference, engine = logits(40), logits(40)
    engine[33, 7] = bad
    with pytest.raises(ValueError, match="positions 32–39 are not finite"):
        compare_logits(reference, engine)


@pytest.mark.parametrize("shape", [(3, 8), (4, 7), (0, 8)])
def test_other_shapes_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(np.zeros((4, 8), np.float32), np.zeros(shape, np.float32))


def test_empty_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(np.zeros((0, 8), np.float32), np.zeros((0, 8), np.float32))


def test_pooled_sequences_equal_one_long_sequence() -> None:
    reference, engine = logits(50, seed=1), logits(50, seed=2)
    parts = [compare_logits(reference[a:b], engine[a:b]) for a, b in ((0, 20), (20, 50))]
    whole = compare_logits(reference, engine)
    assert pooled(parts).as_dict() == pytest.approx(whole.as_dict())


def test_nothing_to_pool_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sequence"):
        pooled([])


def test_report_figures_are_named() -> None:
    figures = Agreement(np.array([0.0, 1.0]), same=1, max_error=2.0, reference_max=4.0).as_dict()
    assert figures["positions"] == 2
    assert figures["kld_mean"] == 0.5
    assert figures["top1"] == 0.5
    assert figures["relative_error"] == 0.5
