"""What a person sees of a build: a line for each stage, a bar where there is a terminal, tables at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol, TextIO

from pipeline.build.engine import BUILT, HIT, REMOTE, Outcome
from pipeline.build.nodes import Node
from pipeline.build.product import Published
from pipeline.build.stage import Log

GATES = ("quality", "sentence_quality", "pair_quality")
# model.task → (verb, what it wants behind the product)
NEXT = {"embedding": ("embed", " TEXT"), "rerank": ("rerank", " QUERY DOCUMENT …")}
WORDS = {HIT: "hit", REMOTE: "hit (remote)", BUILT: "built"}


class Bars(Protocol):
    """Bars of a terminal."""

    def update(self, name: str, done: int, total: int, what: str) -> None: ...

    def finish(self, name: str) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """`pipeline.build.engine.Console` on a stream. Lines only, if it is no terminal or CI is set."""

    def __init__(self, stream: TextIO | None = None, many: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._many = many
        self._lock = Lock()
        self._bars: Bars | None = None
        self._lively = self._stream.isatty() and os.environ.get("CI", "") in ("", "false", "0")
        self._started = time.monotonic()

    def started(self, node: Node) -> Log:
        return StageLog(self, self._title(node))

    def log(self, title: str) -> Log:
        """The log of something that is no stage."""
        return StageLog(self, title)

    def finished(self, node: Node, outcome: Outcome) -> None:
        seconds = f"{outcome.seconds:6.1f} s" if outcome.how == BUILT else " " * 8
        self.end(self._title(node))
        title = f"{self._title(node):<{34 if self._many else 12}}"
        self.say(f"  {title} {WORDS[outcome.how]:<12} {seconds}  {size(outcome.record.bytes)}")

    def say(self, text: str) -> None:
        with self._lock:
            self._write(f"{text}\n")

    def progress(self, title: str, done: int, total: int, what: str) -> None:
        """Draw a bar; nothing where there is no terminal."""
        if not self._lively:
            return
        with self._lock:
            if self._bars is None:
                from pipeline.build.bars import RichBars

                self._bars = RichBars(self._stream)
            self._bars.update(title, done, total, what)

    def end(self, title: str) -> None:
        """The title's bar goes."""
        with self._lock:
            if self._bars is not None:
                self._bars.finish(title)

    def close(self) -> None:
        """No more bars."""
        with self._lock:
            if self._bars is not None:
                self._bars.close()
                self._bars = None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def _title(self, node: Node) -> str:
        return f"{node.label}: {node.name}" if self._many else node.name

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:  # `doit … | head`: the reader has seen enough, the build goes on
            self._stream = open(os.devnull, "w")  # noqa: SIM115


class StageLog:
    """`pipeline.build.stage.Log` of one stage."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        self._title = title

    def progress(self, done: int, total: int, what: str) -> None:
        self._terminal.progress(self._title, done, total, what)

    def note(self, text: str) -> None:
        self._terminal.say(f"  {self._title}: {text}")


def size(count: float) -> str:
    """A number of bytes for people: 512 B, 1.5 kB, 81.9 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Columns with two blanks between; those numbered in `right` flush right. The first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    to_right = set(right)
    lines = [
        "  ".join(
            cell.rjust(width) if column in to_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(f"  {line}" for line in lines)


def stage_table(published: Published, outcomes: Mapping[str, Outcome]) -> str:
    """Hit or built, seconds, bytes of every stage of one product."""
    rows = [["stage", "", "seconds", "size"]]
    for name, node in published.product.nodes.items():
        outcome = outcomes[node.id]
        seconds = f"{outcome.seconds:.1f}" if outcome.how == BUILT else ""
        rows.append([name, WORDS[outcome.how], seconds, size(outcome.record.bytes)])
    return table(rows, right=(2, 3))


def product_lines(published: Published, outcomes: Mapping[str, Outcome], shown: str) -> list[str]:
    """The end of a single export: table, verification, path, what to type next."""
    verification: Mapping[str, Any] = published.manifest.get("verification", {})
    lines = ["", stage_table(published, outcomes), ""]
    if verification.get("verified"):
        gates = [node for name, node in published.product.nodes.items() if name in GATES]
        notes = [note for gate in gates for note in outcomes[gate.id].record.notes]
        lines += [f"  verified ({verification.get('mode')}): {note}" for note in notes]
    else:
        lines.append("  NOT VERIFIED (verify=off); the manifest says so")
    verb, text = NEXT.get(published.manifest.get("model", {}).get("task", ""), ("chat", ""))
    todo = f"  {verb + ':':8} python -m pipeline {verb} {shown}{text}"
    return [*lines, f"  product: {shown}  ({size(published.bytes)})", todo]


def sweep_table(published: Sequence[Published], failed: Sequence[str], outcomes: Mapping[str, Outcome]) -> str:
    """One row for each product of a sweep; `failed` are the names of those that were not made."""
    rows = [["product", "", "built", "hit", "seconds", "size"]]
    for one in published:
        mine = [outcomes[node.id] for node in one.product.nodes.values()]
        built = [outcome for outcome in mine if outcome.how == BUILT]
        seconds = f"{sum(outcome.seconds for outcome in built):.1f}"
        counts = [str(len(built)), str(len(mine) - len(built))]
        rows.append(
            [one.product.name, "up to date" if one.how == "hit" else "published", *counts, seconds, size(one.bytes)]
        )
    rows += [[name, "FAILED", "", "", "", ""] for name in failed]
    return table(rows, right=(2, 3, 4, 5))
