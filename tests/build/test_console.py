"""What a person reads."""

from __future__ import annotations

import io
import os

import pytest

from pipeline.build.console import Terminal, size, table


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (89_923_456, "89.9 MB"), (14e9, "14.0 GB"), (2e13, "20000.0 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_tables() -> None:
    assert table([["a", "size"], ["long name", "1"]], right=(1,)) == (
        "  a          size\n  ─────────  ────\n  long name     1"
    )


def test_no_bars_without_a_terminal() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.progress("weights", 1, 2, "bytes")
    terminal.log("weights").note("a note")
    terminal.close()
    assert stream.getvalue() == "  weights: a note\n"


class Pretended(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("ci, drawn", [("", True), ("false", True), ("true", False), ("1", False)])
def test_bars_on_a_terminal_unless_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str, drawn: bool) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("TERM", "xterm")
    stream = Pretended()
    terminal = Terminal(stream)
    terminal.progress("weights", 1, 2, "weights")
    terminal.progress("weights", 2, 2, "weights")
    terminal.end("weights")
    terminal.close()
    assert ("weights" in stream.getvalue()) == drawn


def test_a_closed_pipe_ends_the_talk_and_not_the_build() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        terminal = Terminal(stream)
        terminal.say("nobody")
        terminal.say("listens")
        terminal.close()
        with pytest.raises(BrokenPipeError):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
