"""aten operations → graph nodes: one table, filled by the modules of this folder."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.graph.lowering import arithmetic, fill, normalise, reduce, select, shape
from pipeline.graph.tracer import Lowering

LOWERINGS: Mapping[str, Lowering] = {
    **arithmetic.LOWERINGS,
    **fill.LOWERINGS,
    **normalise.LOWERINGS,
    **reduce.LOWERINGS,
    **select.LOWERINGS,
    **shape.LOWERINGS,
}
