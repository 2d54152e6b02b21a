"""Every lowering against torch itself: the traced ONNX, run by onnxruntime at a length that was never traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.graph import onnx_file
from pipeline.graph.lowering import LOWERINGS
from pipeline.mnn.converter import Converter
from tests.graph.evaluate import SEQUENCE, run, trace
from tests.mnn.module import run_module

LENGTH = 11
X = (1, SEQUENCE, 8)
Function = Callable[..., torch.Tensor]


def _in_place(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y += 1
    y.mul_(3)
    return y


def _slices_written(x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(*x.shape[:-1], 12)
    y[..., :8].copy_(x)
    y[..., 8:].copy_(x[..., :4])
    return y


def _one_slice_written(x: torch.Tensor) -> torch.Tensor:
    y = x + 0
    y[..., 2:5] = x[..., :3] * 2
    return y


def _router(x: torch.Tensor) -> torch.Tensor:
    """The group-limited routing of DeepSeek: scatter, expand, masked_fill, top-k, gather."""
    scores = x.view(-1, 8).sigmoid()
    groups = scores.view(-1, 4, 2).topk(2, dim=-1)[0].sum(dim=-1)
    best = groups.topk(2, dim=-1, sorted=False)[1]
    mask = torch.zeros_like(groups).scatter_(1, best, 1)
    allowed = mask.unsqueeze(-1).expand(-1, 4, 2).reshape(-1, 8)
    chosen = scores.masked_fill(~allowed.bool(), float("-inf")).topk(3, dim=-1)[1]
    return scores.gather(1, chosen)


ONE: dict[str, Function] = {
    "add": lambda x: x + 1.5,
    "add alpha": lambda x: torch.add(x, x, alpha=0.5),
    "sub": lambda x: x - x[..., :1],
    "rsub": lambda x: 2 - x,
    "mul broadcast": lambda x: x * torch.arange(8.0),
    "div": lambda x: x / 3,
    "div floor": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "pow": lambda x: x.abs() ** 1.5,
    "maximum": lambda x: torch.maximum(x, x.flip(-1) if False else -x),
    "compare": lambda x: (x > 0.1).float() + (x <= 0.5).float() + (x != 0).float() + (x == x).float(),
    "logical": lambda x: ((x > 0) & (x < 1) | ~(x > -1)).float(),
    "where": lambda x: torch.where(x > 0, x, -1.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0.1),
    "clamp tensor": lambda x: x.clamp(min=x[..., :1]),
    "masked_fill": lambda x: x.masked_fill(x > 0, float("-inf")).softmax(-1),
    "neg exp": lambda x: (-x).exp() + x.expm1() + x.abs().log1p(),
    "sqrt": lambda x: x.abs().sqrt() + (x.abs() + 1).rsqrt() + (x.abs() + 1).reciprocal(),
    "trigonometry": lambda x: x.sin() + x.cos() + x.tanh(),
    "erf": torch.erf,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu squared": lambda x: F.relu(x).pow(2),
    "softplus": lambda x: F.softplus(10 * x),
    "floor ceil": lambda x: (3 * x).floor() + (3 * x).ceil(),
    "bool to float": lambda x: (x > 0).to(torch.float32),
    "view": lambda x: x.view(1, -1, 2, 4).transpose(1, 2),
    "flatten": lambda x: x.view(-1, 8).unsqueeze(0).squeeze(0),
    "permute": lambda x: x.view(1, -1, 2, 4).permute(0, 2, 3, 1).transpose(2, 3).reshape(1, -1, 8),
    "expand": lambda x: x[:, :, None, :4].expand(1, x.shape[1], 3, 4).reshape(1, -1, 12),
    "slice": lambda x: x[..., 2:-1] + x[..., ::2][..., :1],
    "chunk": lambda x: torch.cat([part * 2 for part in x.chunk(4, dim=-1)][::-1], dim=-1),
    "split": lambda x: x.split([3, 5], dim=-1)[1],
    "unbind": lambda x: x.view(1, -1, 2, 4).unbind(2)[1],
    "select": lambda x: x[0, :, 3],
    "stack": lambda x: torch.stack([x, -x], dim=-1).flatten(-2),
    "index by a list": lambda x: x[..., torch.tensor([5, 1, 1])],
    "pad": lambda x: F.pad(x, (2, 1), value=0.5),
    "mean": lambda x: x.mean(-1, keepdim=True) + x.sum(-1, keepdim=True),
    "amax": lambda x: x.amax(-1) - x.amin(-1),
    "max with places": lambda x: x.max(dim=-1, keepdim=True)[0] + x.max(dim=-1, keepdim=True)[1],
    "argmax": lambda x: x.argmax(-1).float(),
    "norm": lambda x: F.normalize(x, dim=-1),
    "softmax": lambda x: x.softmax(-1) + x.log_softmax(-1),
    "topk": lambda x: x.topk(3, dim=-1)[0] + x.topk(3, dim=-1)[1],
    "cumsum": lambda x: x.cumsum(-1),
    "layer_norm": lambda x: F.layer_norm(x, (8,), torch.arange(8.0), torch.ones(8), 1e-5),
    "layer_norm without weights": lambda x: F.layer_norm(x, (8,)),
    "rms_norm": lambda x: F.rms_norm(x, (8,), torch.arange(8.0), 1e-6),
    "full_like": lambda x: torch.full_like(x, 2.5) + torch.ones_like(x) + torch.zeros_like(x),
    "router": _router,
    "in place": _in_place,
    "slices written": _slices_written,
    "one slice written": _one_slice_written,
}


@pytest.mark.parametrize("name", ONE)
def test_one_input(name: str, tmp_path: Path) -> None:
    x = torch.randn(1, LENGTH, 8, generator=torch.Generator().manual_seed(0))
    graph = trace(ONE[name], [X])
    np.testing.assert_allclose(run(graph, tmp_path, [x])[0], ONE[name](x.clone()).numpy(), rtol=1e-5, atol=1e-6)


TWO: dict[str, tuple[Function, tuple[int, ...], tuple[int, ...], torch.dtype]] = {
    "mm": (lambda a, b: a[0] @ b, X, (8, 5), torch.float32),
    "bmm": (lambda a, b: a @ b, X, (1, 8, 5), torch.float32),
    "addmm": (lambda a, b: torch.addmm(b[0], a[0], b, beta=2, alpha=0.5), X, (8, 8), torch.float32),
    "embedding": (lambda a, b: F.embedding(b, torch.arange(40.0).view(10, 4)), X, (1, SEQUENCE), torch.int64),
    "gather": (lambda a, b: a[0].gather(1, b), X, (SEQUENCE, 3), torch.int64),
    "integers": (lambda a, b: (b * 3 + 1) // 2 - b, X, (1, SEQUENCE), torch.int64),
    "index_select": (lambda a, b: a.index_select(2, b), X, (4,), torch.int64),
}


@pytest.mark.parametrize("name", TWO)
def test_two_inputs(name: str, tmp_path: Path) -> None:
    function, first, second, dtype = TWO[name]
    generator = torch.Generator().manual_seed(0)
    shapes = [tuple(LENGTH if size == SEQUENCE else size for size in shape) for shape in (first, second)]
    a = torch.randn(shapes[0], generator=generator)
    b = torch.randint(0, 8, shapes[1], generator=generator) if dtype == torch.int64 else torch.randn(shapes[1])
    graph = trace(lambda y, x: function(x, y), [second, first], [dtype])
    np.testing.assert_allclose(run(graph, tmp_path, [b, a])[0], function(a, b).numpy(), rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[Function, str]] = {
    "unknown operation": (lambda x: torch.fft.rfft(x).real, "aten._fft_r2c, which the exporter cannot express"),
    "convolution": (lambda x: F.conv1d(x.transpose(1, 2), torch.ones(8, 8, 2)), "convolves along the sequence"),
    "branch on a value": (lambda x: x if x.sum() > 0 else -x, "decides by a computed number"),
    "scatter of a tensor": (lambda x: x[0].scatter(1, torch.zeros(3, 2, dtype=torch.long), x[0]), "scatters a tensor"),
    "top-k along the sequence": (lambda x: x.topk(2, dim=1)[0], "top-k over another axis"),
    "normalised over two axes": (lambda x: F.layer_norm(x.view(1, -1, 2, 4), (2, 4)), "normalises over several axes"),
    "negative padding": (lambda x: F.pad(x, (-1, 0)), "pads by a negative size"),
    "size by values": (lambda x: x[x > 0], "size of what aten.index gives depends on values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises(UserError, match=reason):
        trace(function, [X])


def test_comparisons_on_the_engine(tmp_path: Path) -> None:
    """The engine's Less of floats is wrong where its AVX2 code runs, so no comparison may come down to it."""

    def compared(x: torch.Tensor) -> torch.Tensor:
        first = x[..., :1]
        found = [x < first, x <= first, x > first, x >= first, x == first, x != first, x < 0.0, x >= 0.0]
        return torch.stack([one.float() for one in found], -1)

    graph = trace(compared, [X])
    onnx_file.write(graph, tmp_path / "a.onnx")
    Converter(tmp_path / "log").onnx_to_mnn(tmp_path / "a.onnx", tmp_path / "a.mnn", True)
    x = torch.randint(-2, 3, (1, LENGTH, 8), generator=torch.Generator().manual_seed(0)).float()
    found = run_module(tmp_path / "a.mnn", {"x0": x.numpy()}, ["y"], tmp_path / "run")["y"]
    np.testing.assert_array_equal(found, compared(x).numpy())


def test_constants_are_computed_at_once() -> None:
    graph = trace(lambda x: x * (torch.arange(8.0) + 1).rsqrt().cos(), [X])
    assert [node.op for node in graph.nodes] == ["Mul"]


def test_infinities_become_the_largest_floats() -> None:
    graph = trace(lambda x: x * torch.tensor([float("inf"), float("-inf")] * 4), [X])
    largest = np.finfo(np.float32).max
    data = graph.nodes[0].inputs[1].data
    assert data is not None
    assert set(data.tolist()) == {largest, -largest}


def test_operator_names_are_atens() -> None:
    for name in LOWERINGS:
        if name != "aten::copy":  # of copy_, whose functional twin aten has too
            assert hasattr(torch.ops.aten, name.removeprefix("aten::")), name
