"""Which of the engine's two masks a layer takes.

With `attention_type: mix` the engine feeds [2, 1, 1, sequence, keys]: the full causal mask and the sliding one. With
`full` it feeds a bare scalar, so no operation but attention may touch the mask.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import UserError
from pipeline.graph.ir import Graph, Node, Value, constant


def choose_mask(graph: Graph) -> None:
    """Lets each attention read its own mask if any of them slides. UserError when windows differ between layers."""
    layers = [node for node in graph.nodes if node.op == "FusedAttention"]
    windows = {node.attributes.pop("sliding_window") for node in layers if node.attributes["sliding_window"]}
    sliding = [node for node in layers if "sliding_window" not in node.attributes]
    if len(windows) > 1:
        raise UserError(
            f"the model's layers have different sliding windows {sorted(map(str, windows))}; the engine has one"
        )
    for node in layers:
        node.attributes.pop("sliding_window", None)
    if not windows:
        return
    mask = graph.inputs["attention_mask"]
    mask.shape = (2, *mask.shape)
    chosen = {}
    for number in (0, 1):
        chosen[number] = Value(mask.shape[1:])
        index = constant(np.asarray(number, np.int32), "int32")
        graph.nodes.insert(number, Node("Gather", [mask, index], [chosen[number]], {"axis": 0}))
    for node in layers:
        node.inputs[3] = chosen[int(node in sliding)]
    graph.window = int(windows.pop())  # type: ignore[arg-type]
