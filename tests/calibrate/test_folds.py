"""Where scales may be folded, on hand-made graphs: only where every reader of the tensor takes part."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.calibrate.folds import fold_points


def extra(kind: str, inputs: list[int], outputs: list[int], **attributes: Any) -> dict[str, Any]:
    listed = [{"key": key, "s" if isinstance(value, str) else "i": value} for key, value in attributes.items()]
    main = {"type": kind, "attr": listed}
    return {"type": "Extra", "name": f"x{outputs[0]}", "inputIndexes": inputs, "outputIndexes": outputs, "main": main}


def linear(name: str, source: int, out: int, size: int, rows: int) -> dict[str, Any]:
    return extra("FakeLinear", [source], [out], name=name, in_features=size, out_features=rows)


def op(kind: str, inputs: list[int], out: int, **main: Any) -> dict[str, Any]:
    return {"type": kind, "name": f"n{out}", "inputIndexes": inputs, "outputIndexes": [out], "main": main}


def norm(source: int, out: int, size: int) -> dict[str, Any]:
    return op("LayerNorm", [source], out, gamma=[1.0] * size)


def attention_block(repeat: int = 2, **attributes: Any) -> list[dict[str, Any]]:
    """v of two heads of three numbers → attention with `repeat` query heads each → o."""
    inputs = 6 * repeat
    return [
        linear("v", 1, 2, 8, 6),
        op("Const", [], 3, int32s=[1, -1, 2, 3]),
        op("Reshape", [2, 3], 4),
        extra("FusedAttention", [10, 11, 4, 12], [5], kv_cache=1, **attributes),
        linear("o", 5, 6, inputs, 8),
    ]


def folds(operators: list[dict[str, Any]]) -> list[tuple[tuple[str, ...], str]]:
    return [(point.scaled, point.norm or point.linear) for point in fold_points({"oplists": operators})]


def test_a_norm_that_only_linears_read() -> None:
    graph = [norm(0, 1, 8), linear("q", 1, 2, 8, 8), linear("k", 1, 3, 8, 8)]
    assert folds(graph) == [(("q", "k"), "n1")]


@pytest.mark.parametrize("other", [op("UnaryOp", [1], 9), extra("MoE", [1, 5, 6], [9])])
def test_not_where_something_else_reads_the_norm(other: dict[str, Any]) -> None:
    assert folds([norm(0, 1, 8), linear("q", 1, 2, 8, 8), other]) == []


def test_not_where_the_norm_is_over_other_channels() -> None:
    assert folds([norm(0, 1, 4), linear("q", 1, 2, 8, 8)]) == []


def test_the_factor_that_comes_straight_from_a_linear() -> None:
    gated = [linear("gate", 1, 2, 8, 6), op("UnaryOp", [2], 3), linear("up", 1, 4, 8, 6),
             op("BinaryOp", [3, 4], 5, opType="MUL"), linear("down", 5, 6, 6, 8)]
    assert folds(gated) == [(("down",), "up")]
    assert folds([*gated, op("UnaryOp", [4], 7)]) == []  # up is read elsewhere
    assert folds([*gated, linear("other", 5, 7, 6, 8)]) == []  # and so is the product


def test_an_activation_alone_takes_no_scale() -> None:
    assert folds([linear("up", 1, 2, 8, 6), op("UnaryOp", [2], 3), linear("down", 3, 4, 6, 8)]) == []


def test_query_heads_of_one_value_head_share_its_channels() -> None:
    (point,) = fold_points({"oplists": attention_block()})
    assert (point.scaled, point.linear) == (("o",), "v")
    assert point.channels.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_without_sharing_every_channel_has_its_own() -> None:
    (point,) = fold_points({"oplists": attention_block(repeat=1)})
    assert point.channels.tolist() == list(range(6))


def test_not_where_layers_share_their_values() -> None:
    assert folds(attention_block(kv_shared_layer_index=0)) == []
