"""What a build would do, and why: for each stage HIT or BUILD, with the ingredients that differ. Builds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.build.config import flatten
from pipeline.build.engine import HIT, REMOTE, Engine, Outcome
from pipeline.build.key import ingredients
from pipeline.build.nodes import Edge, Graph, Node, Product, SourceNode
from pipeline.build.product import up_to_date
from pipeline.build.store import Record

ABSENT = "(none)"
LIMIT = 3
CODE_LIMIT = 2


@dataclass(frozen=True)
class Change:
    """One ingredient that differs. kind: config, code, tool, input or stage; before and after are for a person."""

    kind: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.kind == "code":
            what = "new" if self.before == ABSENT else "gone" if self.after == ABSENT else "changed"
            return f"code: {self.name} {what}"
        if self.kind == "input":
            return f"input: {self.name} {self.before[:8]} → {self.after[:8]}"
        return f"{self.name}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Step:
    """One stage of a plan. verdict: "HIT local", "HIT remote" or "BUILD"; after: what must be built before it."""

    stage: str
    label: str
    verdict: str
    key: str = ""
    changes: tuple[Change, ...] = ()
    after: tuple[str, ...] = ()
    reason: str = ""
    bytes: int = 0

    def why(self) -> str:
        """The reason in one line; "" for a hit."""
        others = [str(change) for change in self.changes if change.kind != "code"]
        parts = _cut(others, LIMIT)
        if code := [str(change) for change in self.changes if change.kind == "code"]:
            parts += _cut(code, CODE_LIMIT)
        if self.reason:
            parts.append(self.reason)
        if self.after:
            parts.append(f"after {', '.join(self.after)}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data for machines."""
        changes = [vars(change) for change in self.changes]
        return {
            "stage": self.stage,
            "label": self.label,
            "verdict": self.verdict,
            "key": self.key,
            "changes": changes,
            "after": list(self.after),
            "reason": self.reason,
            "bytes": self.bytes,
        }


def make_plan(engine: Engine, graph: Graph, present: Mapping[str, bool]) -> dict[str, Step]:
    """Node id → step, producers first. present: source node id → whether the engine knows its files."""
    steps: dict[str, Step] = {}
    for node in graph.nodes.values():
        steps[node.id] = _step(engine, node, steps, present)
    return steps


def product_verdict(engine: Engine, product: Product, steps: Mapping[str, Step]) -> str:
    """ "up to date" or "PUBLISH"."""
    if any(steps[node.id].verdict == "BUILD" for node in product.nodes.values()):
        return "PUBLISH"
    return "up to date" if up_to_date(engine, product) else "PUBLISH"


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], unknown: frozenset[str] = frozenset()
) -> list[Change]:
    """What differs between two sets of ingredients; inputs in `unknown` are not compared."""
    changes = _compare("config", flatten(before["config"]), flatten(after["config"]))
    changes += _compare("tool", before["tools"], after["tools"])
    changes += _compare("code", before["code"], after["code"])
    for name in sorted({*before["inputs"], *after["inputs"]} - unknown):
        old, new = before["inputs"].get(name, {}), after["inputs"].get(name, {})
        changes += [Change("input", f"{name}/{one.name}", one.before, one.after) for one in _compare("input", old, new)]
    if before["module"] != after["module"]:
        changes.append(Change("stage", "module", before["module"], after["module"]))
    return changes


def nearest(
    engine: Engine, node: Node, parts: Mapping[str, Any], unknown: frozenset[str]
) -> tuple[Record | None, list[Change]]:
    """The earlier record with the fewest differences, of the same model if there is one, the newest of equals."""
    best: tuple[tuple[bool, int], Record, list[Change]] | None = None
    for record in engine.store.records(node.name):
        changes = differences(record.ingredients, parts, unknown)
        rank = (record.label != node.label, len(changes))
        if best is None or rank < best[0]:
            best = (rank, record, changes)
    return (best[1], best[2]) if best else (None, [])


def _step(engine: Engine, node: Node, steps: Mapping[str, Step], present: Mapping[str, bool]) -> Step:
    pending = _pending(node, steps, present)
    if not pending:
        key, parts = engine.key(node)
        if (found := _find(engine, node, key)) is not None:
            return found
    else:
        key, parts = "", _partial(engine, node, frozenset(pending))
    record, changes = nearest(engine, node, parts, frozenset(pending))
    reason = "" if record else "never built"
    return Step(node.name, node.label, "BUILD", key, tuple(changes), tuple(pending), reason)


def _pending(node: Node, steps: Mapping[str, Step], present: Mapping[str, bool]) -> dict[str, Edge]:
    """Inputs whose content is not known yet."""
    return {
        name: edge
        for name, edge in node.inputs.items()
        if (not present[edge.node.id] if isinstance(edge.node, SourceNode) else steps[edge.node.id].verdict == "BUILD")
    }


def _partial(engine: Engine, node: Node, pending: frozenset[str]) -> dict[str, Any]:
    known = {name: engine.files(edge) for name, edge in node.inputs.items() if name not in pending}
    return ingredients(node, known, engine.code)


def _find(engine: Engine, node: Node, key: str) -> Step | None:
    for how, verdict, record in (
        (HIT, "HIT local", engine.store.find(node.name, key)),
        (REMOTE, "HIT remote", None),
    ):
        record = record or (engine.remote.find(node.name, key) if how == REMOTE and engine.remote else None)
        if record is not None:
            engine.outcomes[node.id] = Outcome(record, how)
            return Step(node.name, node.label, verdict, key, bytes=record.bytes)
    return None


def _compare(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    return [
        Change(kind, name, _text(before, name), _text(after, name))
        for name in sorted({*before, *after})
        if before.get(name, _MISSING) != after.get(name, _MISSING)
    ]


def _cut(texts: list[str], limit: int) -> list[str]:
    more = len(texts) - limit
    return [*texts[:limit], f"and {more} more"] if more > 0 else texts


_MISSING = object()


def _text(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return ABSENT
    value = values[name]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
