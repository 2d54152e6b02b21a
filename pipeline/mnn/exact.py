"""Puts exact floats back into the converter's JSON dump, which rounds them to six decimals.

Rounding costs 30 % of a small RoPE frequency and turns LayerNorm's epsilon of 1e-12 into 0. The exact values are in the
binary file that was dumped (and in the external file beside it, for constants of more than 1,024 elements).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import StageFailed
from pipeline.mnn import flatbuffer, schema
from pipeline.mnn.flatbuffer import Table

Json = dict[str, Any]
_BLOB_FIELDS = {"DT_FLOAT": ("float32s", "<f4"), "DT_INT32": ("int32s", "<i4")}


def restore(net: Json, mnn: bytes, external: bytes | None) -> None:
    """Changes `net` (the dump of `mnn`) in place: every float exact, every external constant inline.

    external: the content of `<model>.weight`, empty if there is none; None leaves references to it as they are.
    Raises StageFailed for a float whose place in the binary is not known (so that no rounded value can stay behind),
    and for an external constant that cannot be read.
    """
    table = flatbuffer.root(mnn)
    _restore_operators(net.get("oplists", []), table.tables(schema.NET_OPS), external)
    for subgraph, child in zip(net.get("subgraphs", []), table.tables(schema.NET_SUBGRAPHS), strict=True):
        _restore_operators(subgraph.get("nodes", []), child.tables(schema.SUBGRAPH_NODES), external)


def _restore_operators(operators: list[Json], tables: list[Table], external: bytes | None) -> None:
    if len(operators) != len(tables):
        raise StageFailed(f"converter: its JSON has {len(operators)} operators, its model {len(tables)}")
    for operator, table in zip(operators, tables, strict=True):
        main, binary = operator.get("main"), table.table(schema.OP_MAIN)
        if main is None or binary is None:
            continue
        _restore_table(main, binary, operator["main_type"], str(operator.get("name")))
        if external is not None and main.get("external"):
            _inline(operator, external)


def _restore_table(node: Json, table: Table, kind: str, where: str) -> None:
    known = schema.FLOATS.get(kind, {})
    for key, value in node.items():
        if key in known:
            slot, field = known[key]
            node[key] = _exact(value, table, slot, field, where)
        elif _holds_float(value):
            raise StageFailed(f"converter: {kind}.{key} of {where} holds floats that this pipeline cannot read exactly")


def _exact(value: Any, table: Table, slot: int, field: str, where: str) -> Any:
    if field == "float":
        exact = table.float32(slot)
        return value if exact is None else exact
    if field == "[float]":
        vector = table.vector(slot, "<f4")
        return value if vector is None else _finite(vector, where)
    if field.startswith("["):
        for child, binary in zip(value, table.tables(slot), strict=True):
            _restore_table(child, binary, field.strip("[]"), where)
        return value
    child_table = table.table(slot)
    if child_table is not None:
        _restore_table(value, child_table, field, where)
    return value


def _inline(operator: Json, external: bytes) -> None:
    """Moves an external constant into the JSON: the weight file of the product belongs to the weights stage."""
    main, kind = operator["main"], operator["main_type"]
    sizes = list(main.pop("external"))
    if kind == "LayerNorm":
        main["gamma"] = _floats(operator, external, sizes[0], sizes[1])
        main["beta"] = _floats(operator, external, sizes[0] + sizes[1], sizes[2])
    elif kind == "Blob" and main.get("dataType") in _BLOB_FIELDS:
        field, dtype = _BLOB_FIELDS[main["dataType"]]
        data = _slice(operator, external, sizes[0], sizes[1])
        vector = np.frombuffer(data, dtype)
        main[field] = _finite(vector, operator["name"]) if dtype == "<f4" else vector.tolist()
    elif kind == "Convolution2D":
        main["weight"] = _floats(operator, external, sizes[0], sizes[1])
        main["bias"] = _floats(operator, external, sizes[0] + sizes[1], sizes[2])
    else:
        raise StageFailed(f"converter: {operator['name']} ({kind}) keeps its constants in an unknown external form")


def _floats(operator: Json, external: bytes, start: int, size: int) -> list[float]:
    return _finite(np.frombuffer(_slice(operator, external, start, size), "<f4"), operator["name"])


def _slice(operator: Mapping[str, Any], external: bytes, start: int, size: int) -> bytes:
    data = external[start : start + size]
    if len(data) != size:
        raise StageFailed(f"converter: the constants of {operator['name']} end beyond its external file")
    return data


def _finite(vector: np.ndarray[Any, Any], where: str) -> list[float]:
    """As Python floats (JSON cannot carry inf or nan, and none belongs into a constant of a language model)."""
    if not np.isfinite(vector).all():
        raise StageFailed(f"graph: the constant {where} is not finite", "replace -inf by float32's lowest value")
    return [float(x) for x in vector.tolist()]


def _holds_float(value: Any) -> bool:
    if isinstance(value, float):
        return True
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds_float(child) for child in children)
