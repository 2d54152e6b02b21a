"""Clean-up of a traced graph: one rewriting per file, applied in the order of `PASSES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.graph.ir import Graph
from pipeline.graph.passes.attention_mask import choose_mask
from pipeline.graph.passes.attention_scale import fold_attention_scale
from pipeline.graph.passes.dead import drop_dead
from pipeline.graph.passes.head_gamma import part_head_gammas
from pipeline.graph.passes.interleaved_rope import permute_rows
from pipeline.graph.passes.linear_input import drop_linear_reshapes
from pipeline.graph.passes.look_ahead import look_ahead
from pipeline.graph.passes.order import order_nodes
from pipeline.graph.passes.positions import check_positions
from pipeline.graph.passes.reshapes import join_reshapes
from pipeline.graph.passes.split_linear import split_linears
from pipeline.graph.passes.transposes import cancel_transposes

PASSES: tuple[Callable[[Graph], None], ...] = (
    choose_mask,
    drop_dead,
    check_positions,
    look_ahead,
    cancel_transposes,
    part_head_gammas,
    join_reshapes,
    drop_dead,
    split_linears,
    drop_dead,
    fold_attention_scale,
    permute_rows,
    drop_linear_reshapes,
    join_reshapes,
    drop_dead,
    order_nodes,
)


# For graphs that see their whole input at once (embedding models), where positions may come together anywhere.
POSITION_FREE = tuple(rewrite for rewrite in PASSES if rewrite is not check_positions)


def clean(graph: Graph, passes: Sequence[Callable[[Graph], None]] = PASSES) -> None:
    """Applies every pass to `graph` in place."""
    for rewrite in passes:
        rewrite(graph)
