"""AWQ (Lin et al. 2023): columns of active inputs are made larger before rounding, the inputs smaller where they arise.

Multiplying column i of a weight matrix by s_i and dividing the input's channel i by s_i changes nothing in exact
arithmetic, and lets blocks spend their steps on the columns of active inputs. The division costs nothing at run time
where whatever makes the input can take it: the gamma (and beta) of a norm, or the rows (and bias) of a linear before
it. `calibrate/folds.py` finds these places, `calibrate/awq.py` the scales. What is then rounded, on the grid of wmse,
are the scaled weights.
"""

from __future__ import annotations

from pipeline.weights.precision import Precision
from pipeline.weights.quantiser import Blocks, Grid
from pipeline.weights.wmse import grid as weighted_grid


def grid(blocks: Blocks, precision: Precision) -> Grid:
    """The grid of wmse; `blocks.importance` is E[x²] of the inputs after their division."""
    return weighted_grid(blocks, precision)
