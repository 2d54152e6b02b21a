"""MNN files as JSON, every float exact: the converter's own dump, with what it rounds put back."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed
from pipeline.mnn import flatbuffer, schema
from pipeline.mnn.converter import Converter
from pipeline.mnn.exact import restore
from pipeline.mnn.flatbuffer import Table

Json = dict[str, Any]
# Constants of more elements than this are kept from the converter, which prints them slowly and wrong.
_HOLLOW_ABOVE = 256


def dump_exact(converter: Converter, mnn: Path, external: bytes | None) -> Json:
    """The JSON of `mnn` with exact floats; leaves two intermediate files beside it.

    external: the content of `<mnn>.weight`, whose constants then come inline; None leaves the references to it.
    """
    content = mnn.read_bytes()
    hollow, text = mnn.with_suffix(".hollow.mnn"), mnn.with_suffix(".hollow.json")
    hollow.write_bytes(_hollow(content))
    converter.mnn_to_json(hollow, text)
    net = read_net(text)
    restore(net, content, external)
    return net


def read_net(path: Path) -> Json:
    """A net's JSON as the converter dumps it. Raises StageFailed if it is none."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        net = json.loads(text)
    except json.JSONDecodeError as error:
        bare = re.search(r"[\s\[:](-?(?:inf|nan))[\s,\]]", text)
        reason = f"a constant is {bare[1]}" if bare else f"{error.msg} in line {error.lineno}"
        raise StageFailed(f"converter: {path.name} cannot be read: {reason}") from None
    if not isinstance(net, dict) or not isinstance(net.get("oplists"), list):
        raise StageFailed(f"converter: {path.name} is not the JSON of an MNN model")
    return net


def write_net(net: Json, path: Path) -> None:
    """Writes every float with all the digits of its float64 value, which holds any float32 exactly."""
    path.write_text(json.dumps(net, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")


def _hollow(content: bytes) -> bytes:
    """A copy whose large float constants have no elements: only the vectors' counts change."""
    copy = bytearray(content)
    for main in _constants(flatbuffer.root(content)):
        slot, _ = schema.FLOATS["Blob"]["float32s"]
        place = main.span(slot)
        if place is not None and place[1] > _HOLLOW_ABOVE:
            struct.pack_into("<I", copy, place[0] - 4, 0)
    return bytes(copy)


def _constants(net: Table) -> Iterator[Table]:
    for operator in net.tables(schema.NET_OPS):
        main = operator.table(schema.OP_MAIN)
        if main is not None and schema.UNION_TYPES.get(operator.uint8(schema.OP_MAIN_TYPE)) == "Blob":
            yield main
