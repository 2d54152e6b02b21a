"""The budget solver against exhaustive search, and the refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.weights.allocation import Choice, allocate, frontier, precisions_for
from pipeline.weights.layout import Layout, Linear, Part

RNG = np.random.default_rng(2)


def table(count: int) -> dict[str, list[Choice]]:
    """Linears of different sizes and sensitivities; an 8-bit code costs twice a 4-bit one and errs 256 times less."""
    found = {}
    for number in range(count):
        size, kld = int(RNG.integers(10, 100)) * 1000, float(np.exp(RNG.standard_normal() * 2)) / 100
        found[f"l{number}"] = [
            Choice(4, 128, size, kld * 1.5),
            Choice(4, 64, int(1.06 * size), kld),
            Choice(4, 32, int(1.2 * size), kld / 2),
            Choice(8, 64, 2 * size, kld / 256),
        ]
    return found


def best(candidates: dict[str, list[Choice]], limit: int) -> float:
    """The least divergence within `limit`, by trying everything."""
    combinations = itertools.product(*candidates.values())
    return min(sum(c.kld for c in one) for one in combinations if sum(c.bytes for c in one) <= limit)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 1.0])
def test_close_to_the_best_of_all_combinations(share: float) -> None:
    candidates = table(6)
    low, high = (sum(pick(c.bytes for c in one) for one in candidates.values()) for pick in (min, max))
    limit = int(low + share * (high - low))
    chosen = allocate(candidates, limit + 1000, 1000, None)
    assert sum(c.bytes for c in chosen.values()) <= limit
    least = sum(max(c.kld for c in one) for one in candidates.values())
    assert sum(c.kld for c in chosen.values()) <= best(candidates, limit) + 0.05 * least


def test_more_bytes_never_cost_divergence() -> None:
    candidates = table(40)
    low = sum(min(c.bytes for c in one) for one in candidates.values())
    klds = [sum(c.kld for c in allocate(candidates, int(low * f), 0, None).values()) for f in (1, 1.1, 1.3, 1.6, 2.5)]
    assert klds == sorted(klds, reverse=True) and klds[-1] < klds[0] / 10


def test_divergence_as_the_limit() -> None:
    candidates = table(40)
    points = frontier(candidates)
    assert points == sorted(points) and [p[1] for p in points] == sorted((p[1] for p in points), reverse=True)
    chosen = allocate(candidates, None, 0, points[len(points) // 2][1])
    assert sum(c.bytes for c in chosen.values()) == points[len(points) // 2][0]


def test_impossible_budgets_say_what_is_possible() -> None:
    candidates = table(3)
    low = sum(min(c.bytes for c in one) for one in candidates.values())
    with pytest.raises(UserError, match=f"the least that this model can take is {low + 500:,}"):
        allocate(candidates, low, 500, None)
    with pytest.raises(UserError, match=r"quant.max_kld=1e-09 is out of reach: the least predicted divergence is "):
        allocate(candidates, None, 0, 1e-9)


def write(folder: Path, linears: list[Linear]) -> dict[str, Path]:
    entries = {
        linear.name: [
            {"bits": bits, "block": 64, "bytes": linear.out_features * linear.in_features * (bits / 8 + 1 / 16),
             "kld": sensitivity * 16.0 ** (-bits / 4)}
            for bits in (4, 8)
        ]
        for linear, sensitivity in zip(linears, (1.0, 0.1, 5.0, 0.2), strict=True)
    }
    (folder / "sensitivity.json").write_text(json.dumps({"linears": entries}))
    return {"sensitivity": folder}


def test_head_and_ruled_linears_keep_what_the_recipe_says(tmp_path: Path) -> None:
    linears = [Linear(name, 64, 64, (Part(name),)) for name in ("a", "b", "c", "lm_head")]
    quant: dict[str, Any] = {
        "bits": 4, "block": 64, "lm_bits": 8, "algorithm": "gptq", "target_bpw": 6.5,
        "rules": [{"pattern": "c", "bits": 4}],
    }
    found = precisions_for(Layout(tuple(linears)), quant, write(tmp_path, linears))
    assert {name: one.bits for name, one in found.items()} == {"a": 8, "b": 4, "c": 4, "lm_head": 8}
    assert found["lm_head"].algorithm == "wmse" and found["a"].algorithm == "gptq"
    with pytest.raises(UserError, match=r"target_bpw=4 is below the least .*, [\d.]+ bits a weight \("):
        precisions_for(Layout(tuple(linears)), {**quant, "target_bpw": 4}, write(tmp_path, linears))
