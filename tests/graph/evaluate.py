"""Traces a torch function with the exporter's tracer and runs the written ONNX in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from pipeline.graph import lengths, onnx_file
from pipeline.graph.ir import Graph
from pipeline.graph.lowering import LOWERINGS
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.tracer import Options, Tracer

Array = npt.NDArray[np.generic]
SEQUENCE = -1  # stands for the sequence length in the shapes given to `trace`


def no_values(name: str) -> torch.Tensor:
    raise KeyError(name)


def tracer_at(length: int, parameters: dict[int, str] | None = None) -> Tracer:
    tracer = Tracer(LOWERINGS, {}, parameters or {}, no_values, Options())
    tracer.length = length
    return tracer


def trace(
    function: Callable[..., torch.Tensor], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype] = ()
) -> Graph:
    """The merged graph of `function` over inputs of `shapes`; SEQUENCE in a shape is the growing axis."""
    short, long = (_once(function, shapes, dtypes, length) for length in lengths.LENGTHS)
    return lengths.merge(short, long)


def run(graph: Graph, folder: Path, inputs: Sequence[torch.Tensor]) -> list[Array]:
    """The outputs of the graph's ONNX file in onnxruntime; integers go in as int32."""
    path = folder / "graph.onnx"
    onnx_file.write(graph, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = [x.numpy().astype(np.int32) if x.dtype == torch.int64 else x.numpy() for x in inputs]
    feed = {f"x{number}": array for number, array in enumerate(arrays)}
    outputs: list[Array] = session.run(None, {name: array for name, array in feed.items() if name in graph.inputs})
    return outputs


def _once(
    function: Callable[..., torch.Tensor], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype], length: int
) -> Graph:
    tracer = tracer_at(length)
    kinds = [*dtypes, *[torch.float32] * (len(shapes) - len(dtypes))]
    tensors = [
        tracer.new_input(f"x{number}", [length if size == SEQUENCE else size for size in shape], kind)
        for number, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
    ]
    with tracer:
        result = function(*tensors)
    tracer.graph.outputs["y"] = tracer.value(result)
    drop_dead(tracer.graph)
    return tracer.graph
