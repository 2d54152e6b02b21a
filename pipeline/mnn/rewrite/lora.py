"""A split LoRA: beside an adapted linear two small ones, whose product is added to its output.

The addition stands directly behind the convolution, before the C4 pass rewires consumers: whoever reads the linear's
output reads the sum. (An adapter patched in after that pass misses the consumers that the pass has rewired.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.graph import Json, Scope, node, packed_input


@dataclass(frozen=True)
class LowRank:
    """A change of one linear by up @ down. down: float32 [rank, in_features]; up: float32 [out_features, rank].

    The adapter's scaling (alpha / rank, its weight) is already in `up`.
    """

    down: npt.NDArray[np.float32]
    up: npt.NDArray[np.float32]


def add_low_rank(name: str, source: int, product: int, shape: tuple[int, int], scope: Scope) -> tuple[list[Json], int]:
    """Operators that add the adapter's part to tensor `product` [rows, out, 1, 1] (NC4HW4), and the sum's tensor.

    source: the linear's input as the placeholder had it; it is packed a second time here, since the C4 pass rewires a
    packed tensor for one reader only. shape: (out_features, in_features). Without an adapter for `name`:
    no operators, and `product` itself. Raises StageFailed for an adapter of another shape.
    """
    change = scope.adapter.get(name)
    if change is None:
        return [], product
    rank = change.down.shape[0]
    if change.down.shape != (rank, shape[1]) or change.up.shape != (shape[0], rank):
        found = f"{list(change.up.shape)} x {list(change.down.shape)}"
        raise StageFailed(f"link: the adapter of {name} is {found}, the linear {list(shape)}")
    scope.adapted.add(name)
    before, packed = packed_input(f"{name}/lora", source, shape[1], scope)
    down, up, total = (scope.new_tensor(f"{name}/lora_{step}") for step in ("down", "up", "sum"))
    add = {"opType": "ADD", "T": "DT_FLOAT", "activationType": 0}
    return [
        *before,
        node(f"{name}/lora_down", "Convolution", [packed], [down], "Convolution2D", _convolution(change.down)),
        node(f"{name}/lora_up", "Convolution", [down], [up], "Convolution2D", _convolution(change.up)),
        node(f"{name}/lora_sum", "BinaryOp", [product, up], [total], "BinaryOp", add),
    ], total


def _convolution(matrix: npt.NDArray[np.float32]) -> Json:
    """A float 1x1 convolution with its weights inline: the weight file is the base's and stays as it is."""
    rows, columns = (int(size) for size in matrix.shape)
    if not np.isfinite(matrix).all():
        raise StageFailed("link: the adapter holds values that are not finite")
    common = {
        "dilateX": 1, "dilateY": 1, "strideX": 1, "strideY": 1, "kernelX": 1, "kernelY": 1, "padX": 0, "padY": 0,
        "group": 1, "outputCount": rows, "inputCount": columns, "padMode": "CAFFE", "relu": False, "relu6": False,
        "hasOutputShape": False,
    }  # fmt: skip
    return {"common": common, "weight": matrix.astype(np.float64).ravel().tolist(), "bias": [0.0] * rows}
