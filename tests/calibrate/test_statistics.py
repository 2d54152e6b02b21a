"""Streamed statistics against hooks and autograd on the whole model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.calibrate import statistics
from pipeline.calibrate.stream import Stream
from pipeline.weights.layout import Linear


def quiet(done: int, total: int, what: str) -> None:
    assert 0 < done <= total


def modules(whole: Any, linears: list[Linear]) -> dict[str, Any]:
    return {linear.name: whole.get_submodule(linear.name) for linear in linears}


def test_importance_is_the_mean_square_of_every_input(
    stream: Stream, whole: Any, linears: list[Linear], sequences: list[list[int]]
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0][0]))
        for name, module in modules(whole, linears).items()
    ]
    with torch.no_grad():
        for ids in sequences:
            whole(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    found = statistics.importance(stream, linears, sequences, "lm_head", quiet)
    assert found.keys() == seen.keys() == {linear.name for linear in linears}
    for name, values in found.items():
        expected = torch.cat(seen[name]).double().square().mean(0)
        np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_output_gradients_equal_autograd_through_the_whole_model(
    stream: Stream, whole: Any, linears: list[Linear], sequences: list[list[int]]
) -> None:
    _, found = statistics.sensitivities(stream, linears, sequences, "lm_head", 7, quiet)
    generator = torch.Generator().manual_seed(7)
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, args: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda g: seen.setdefault(name, []).append(g[0].clone()))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in modules(whole, linears).items()]
    for ids in sequences:
        logits = whole(torch.tensor([ids])).logits[0]
        drawn = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=generator)[:, 0]
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    assert found.keys() == seen.keys()
    for name, values in found.items():
        expected = torch.cat(seen[name]).double().square().mean(0)
        np.testing.assert_allclose(values, expected, rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_same_figures(seed: int, stream: Stream, linears: list[Linear], sequences: list[list[int]]) -> None:
    first = statistics.sensitivities(stream, linears, sequences[:2], "lm_head", seed, quiet)[1]
    second = statistics.sensitivities(stream, linears, sequences[:2], "lm_head", seed, quiet)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)
