"""The grid with the least expected error of the layer's output, as far as a block alone can know it.

With inputs taken as uncorrelated the expected squared error of an output is the sum over input channels i of
E[x_i²] (w_i - ŵ_i)²: llama.cpp's importance matrix.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import StageFailed
from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Blocks, Grid
from pipeline.weights.search import search


def grid(blocks: Blocks, precision: Precision) -> Grid:
    """`blocks.importance` is required. Inputs that the calibration never drove count a little, so as not to be lost.

    Raises StageFailed without importance.
    """
    if blocks.importance is None:
        raise StageFailed("wmse needs the input statistics of every linear that it quantises",
                          "add a rule with algorithm: mse for the linears that the calibration does not reach")
    floor = np.float32(1e-4) * blocks.importance.mean(1, keepdims=True) + np.float32(1e-12)
    weighed = Blocks(blocks.values, blocks.low, blocks.high, blocks.importance + floor)
    return search(weighed, precision)
