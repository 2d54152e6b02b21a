"""Every boundary of float16, against numpy's own cast."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.weights.halves import halves, rounded

ALL = np.arange(65536, dtype=np.uint16).view(np.float16)
FINITE = ALL[np.isfinite(ALL)].astype(np.float32)
RNG = np.random.default_rng(4)


def neighbours(values: np.ndarray) -> np.ndarray:
    """Midpoints between float16 numbers and the float32 numbers beside them, where rounding is decided."""
    middle = (values[:-1] + values[1:]) / np.float32(2)
    return np.concatenate([middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))])


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    "values",
    [
        FINITE,
        FINITE[np.abs(FINITE) >= 2**-14],
        neighbours(np.sort(FINITE)),
        neighbours(np.sort(FINITE[FINITE >= 2**-14])),
        RNG.standard_normal(100_000).astype(np.float32),
        np.array([65519.99, -65519.99, 65504], np.float32),
        np.array([65520, -65520, 1e30, np.inf, -np.inf], np.float32),
        np.array([0.0, -0.0, 2**-14, 2**-14 * 0.99999, 6e-8, 3e-8, 1e-20], np.float32),
    ],
)
def test_same_bits_as_numpy(values: np.ndarray) -> None:
    expected = values.astype(np.float16)
    assert halves(values).tobytes() == expected.tobytes()
    assert rounded(values).tobytes() == expected.astype(np.float32).tobytes()
