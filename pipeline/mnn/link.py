"""Skeleton + places in the weight file → llm.mnn: placeholders replaced, converted, optimised."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed
from pipeline.mnn import flatbuffer, schema
from pipeline.mnn.converter import Converter
from pipeline.mnn.dump import dump_exact, read_net, write_net
from pipeline.mnn.rewrite import REWRITERS
from pipeline.mnn.rewrite.graph import Json, Scope
from pipeline.mnn.rewrite.lora import fill
from pipeline.mnn.rewrite.low_rank import LowRank


def rewrite(
    skeleton: Json,
    weights: Mapping[str, Any],
    adapter: Mapping[str, LowRank] | None = None,
    values: dict[str, Any] | None = None,
) -> Json:
    """The skeleton with every placeholder replaced. `weights`: places.json, or weights.json, which says
    more. Changes and returns `skeleton`.

    adapter: a split LoRA by linear; its numbers go into `values`, for `lora.fill`. Raises StageFailed for an unknown
    placeholder, for an adapter's linear that the graph has not, and when the graph's placeholders and the weight file's
    entries are not the same set.
    """
    templates = {graph["name"]: graph for graph in skeleton.pop("subgraphs", [])}
    used: set[str] = set()
    adapted: set[str] = set()
    values = {} if values is None else values
    subgraphs: list[Json] = []

    def add_expert(template: str, name: str, prefix: str) -> None:
        if template not in templates:
            raise StageFailed(f"link: the skeleton has no expert template '{template}'")
        graph = copy.deepcopy(templates[template])
        scope = _scope(graph["nodes"], graph["tensors"], weights, used, prefix)
        scope.adapter, scope.adapted, scope.values = adapter or {}, adapted, values
        subgraphs.append({**graph, "name": name, "nodes": _rewritten(scope)})

    scope = _scope(skeleton["oplists"], skeleton["tensorName"], weights, used)
    scope.add_expert = add_expert
    scope.adapter, scope.adapted, scope.values = adapter or {}, adapted, values
    skeleton["oplists"] = _rewritten(scope)
    if subgraphs:
        skeleton["subgraphs"] = subgraphs
    _compare("places.json", {*scope.linears, *scope.tables}, used)
    _compare("the adapter's linears", adapter or {}, adapted)
    return skeleton


def check_layout(layout: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Raises StageFailed when layout.json and the places do not name the same linears and tables."""
    for kind in ("linears", "tables"):
        wanted = {entry["name"] for entry in layout.get(kind, [])}
        found = set(weights.get(kind, {}))
        if wanted != found:
            raise StageFailed(f"link: layout.json and places.json differ in {kind}: {_difference(wanted, found)}")


def link(
    skeleton: Path,
    weights: Mapping[str, Any],
    out: Path,
    work: Path,
    converter: Converter,
    fuse_c4: bool,
    *,
    adapter: Mapping[str, LowRank] | None = None,
    name: str = "llm.mnn",
) -> int:
    """Writes `out`/<name> and, for the base, `out`/<name>.json; returns the final number of its operators (0 for an
    adapter). `work` holds what is between.

    fuse_c4 False leaves the C4 pass out (for older engines); a graph with FusedRoPE placeholders needs the pass.
    adapter: a split LoRA by linear; the result, say lora.mnn, reads the base's weight file and carries its own part.
    """
    values: dict[str, Any] = {}
    net = rewrite(read_net(skeleton), weights, adapter, values)
    if not fuse_c4 and any(operator["type"] == "RoPE" for operator in net["oplists"]):
        raise StageFailed(
            "link: the graph has RoPE ops, which run with C4 fusion only", "trace it with target.graph.fuse_c4=false"
        )
    rewritten, raw, final = work / "rewritten.json", work / "raw.mnn", work / "linked.mnn"
    write_net(net, rewritten)
    converter.json_to_mnn(rewritten, raw, fuse_c4)
    converter.optimise(raw, final, fuse_c4)
    if adapter is not None:
        fill(final, values)
        fix_uuid(final)
        shutil.move(final, out / name)
        return 0
    fix_uuid(final)
    linked = dump_exact(converter, final, None)
    write_net(linked, out / f"{name}.json")
    shutil.move(final, out / name)
    return len(linked["oplists"])


def fix_uuid(mnn: Path) -> None:
    """Replaces the converter's random uuid by one out of the file's content, in place and of the same length."""
    content = bytearray(mnn.read_bytes())
    place = flatbuffer.root(bytes(content)).span(schema.NET_UUID)
    if place is None:
        return
    start, length = place
    content[start : start + length] = b"0" * length
    content[start : start + length] = hashlib.sha256(content).hexdigest()[:length].encode()
    mnn.write_bytes(content)


def _scope(
    operators: list[Json], tensors: list[str], weights: Mapping[str, Any], used: set[str], prefix: str = ""
) -> Scope:
    return Scope(operators, tensors, weights.get("linears", {}), weights.get("tables", {}), prefix, used)


def _rewritten(scope: Scope) -> list[Json]:
    # All rewriters run before dead operators are dropped: a RoPE absorbs norms that stand before it.
    replaced = [(operator, _replace(operator, scope)) for operator in scope.operators]
    return [new for operator, news in replaced if id(operator) not in scope.dead for new in news]


def _replace(operator: Json, scope: Scope) -> list[Json]:
    if operator["type"] != "Extra":
        return [operator]
    kind = operator["main"].get("type")
    if kind not in REWRITERS:
        raise StageFailed(
            f"link: the graph has an operator that MNN does not know: {kind} ({operator.get('name')})",
            f"known placeholders: {', '.join(sorted(REWRITERS))}",
        )
    return REWRITERS[kind](operator, scope)


def _compare(where: str, entries: Iterable[str], placeholders: set[str]) -> None:
    if set(entries) != placeholders:
        raise StageFailed(
            f"link: the graph's placeholders and {where} differ: {_difference(placeholders, set(entries))}"
        )


def _difference(first: set[str], second: set[str]) -> str:
    """The names on one side only, a few of each."""
    only_first, only_second = sorted(first - second), sorted(second - first)
    parts = [
        f"{len(names)} only in the {side} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for side, names in (("first", only_first), ("second", only_second))
        if names
    ]
    return "; ".join(parts)
