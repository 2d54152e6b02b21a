"""Which sizes grow with the sequence, and what cannot."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from pipeline.errors import UserError
from pipeline.graph import onnx_file
from pipeline.graph.ir import Grows
from pipeline.graph.lengths import LENGTHS, grown
from tests.graph.evaluate import SEQUENCE, trace

X = (1, SEQUENCE, 8)


@pytest.mark.parametrize("factor, offset", [(1, 0), (4, 0), (1, 3), (2, -1)])
def test_sizes_that_grow(factor: int, offset: int) -> None:
    short, long = (factor * length + offset for length in LENGTHS)
    assert grown(short, long) == Grows(factor, offset)


def test_sizes_that_stay() -> None:
    assert grown(64, 64) == 64
    assert grown(LENGTHS[0], LENGTHS[0]) == LENGTHS[0], "equal in both traces: a size of the model"


def test_sizes_that_grow_unevenly() -> None:
    assert grown(LENGTHS[0] ** 2, LENGTHS[1] ** 2 + 1) is None


def test_no_traced_length_survives(tmp_path: Path) -> None:
    graph = trace(lambda x: x.view(1, -1, 2, 4).transpose(1, 2).reshape(2, -1, 4).sum(0), [X])
    assert graph.outputs["y"].shape == (Grows(1), 4)
    path = tmp_path / "graph.onnx"
    onnx_file.write(graph, path)
    model = onnx.load(path)
    numbers = {n for t in model.graph.initializer for n in onnx.numpy_helper.to_array(t).reshape(-1).tolist()}
    assert not numbers & set(LENGTHS)
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_param == "sequence"


def test_a_constant_of_the_traced_length_is_refused() -> None:
    with pytest.raises(UserError, match=r"computes a constant \[23, 1\] for Add from the sequence length"):
        trace(lambda x: x + torch.arange(x.shape[1])[:, None], [X])


def test_a_number_of_the_traced_length_is_refused() -> None:
    with pytest.raises(UserError, match="constant \\[\\] for Div from the sequence length"):
        trace(lambda x: x / x.shape[1], [X])


def test_a_loop_over_positions_is_refused() -> None:
    with pytest.raises(UserError, match="other operations for another sequence length"):
        trace(lambda x: torch.cat([x[:, i : i + 1] * i for i in range(x.shape[1])], 1), [X])


def test_an_expansion_to_the_traced_length_is_refused(tmp_path: Path) -> None:
    graph = trace(lambda x: x[:, :1].expand(1, x.shape[1], 8) * 2, [X])
    with pytest.raises(UserError, match="expand has a size that depends on the sequence length"):
        onnx_file.write(graph, tmp_path / "graph.onnx")


def test_two_growing_sizes_in_one_reshape_are_refused(tmp_path: Path) -> None:
    graph = trace(lambda x: (x @ x.transpose(1, 2)).view(1, 1, x.shape[1], x.shape[1]).reshape(x.shape[1], -1, 1), [X])
    with pytest.raises(UserError, match="more than one size grows"):
        onnx_file.write(graph, tmp_path / "graph.onnx")
