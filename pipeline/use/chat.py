"""`python -m pipeline chat PRODUCT`: a conversation in the terminal, streamed, over one cache."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from pipeline.errors import PipelineError
from pipeline.mnn.runner import Engine, EngineError
from pipeline.use import commands
from pipeline.use.media import encode
from pipeline.use.sampler import Sampler, Sampling
from pipeline.use.session import Answer, Request, Session, speeds
from pipeline.use.settings import (
    add_product_options,
    add_sampling_options,
    new_tokens,
    open_engine,
    overrides,
    sampling_of,
)

Message = dict[str, str]


class Chat:
    """The conversation's state. messages: all turns; keys: this session's config.json keys."""

    def __init__(self, arguments: argparse.Namespace, out: TextIO, notes: TextIO) -> None:
        self.arguments = arguments
        self.out, self.notes = out, notes
        self.keys: dict[str, Any] = overrides(arguments.assignments)
        self.messages: list[Message] = []
        self.last = Answer()
        self.cancelled = False
        self.system(arguments.system)
        self.start()

    def start(self) -> None:
        """(Re)loads the engine with the session's keys; the conversation stays, the cache does not."""
        self.engine: Engine = open_engine(self.arguments, self.keys)
        self.engine.load()
        self.session = Session(self.engine)
        self.sampling: Sampling = sampling_of(self.engine, self.keys, self.arguments.greedy)
        self.sampler = Sampler(self.sampling, self.arguments.seed)

    def restart(self) -> None:
        """Ends the engine and starts it again."""
        self.engine.close()
        self.start()

    def resample(self) -> None:
        """Takes changed sampler keys over without touching the engine."""
        self.sampler.sampling = sampling_of(self.engine, self.keys, self.arguments.greedy)

    def system(self, text: str) -> None:
        """Starts afresh with another system message ("" = none)."""
        self.messages = [{"role": "system", "content": text}] if text else []

    def say(self, text: str) -> None:
        """One turn: streams the answer to `out`, its speeds to `notes`. A crash restarts the engine and says so."""
        self.messages.append({"role": "user", "content": text})
        self.last, self.cancelled = Answer(), False
        try:
            with self._stoppable():
                for piece in self._answer():
                    self.out.write(piece)
                    self.out.flush()
        except EngineError as error:
            self.messages.pop()
            self.out.write("\n")
            self.note(f"error: {error}\nThe engine is started again; the question was not answered.")
            self.restart()
            return
        except PipelineError:
            self.messages.pop()
            raise
        self.out.write("\n")
        self.out.flush()
        self.messages.append({"role": "assistant", "content": self.last.text})
        self.note(speeds(self.last))

    def note(self, text: str) -> None:
        """A line that is not part of an answer."""
        print(text, file=self.notes, flush=True)

    def close(self) -> None:
        """Ends the engine."""
        self.engine.close()

    def _answer(self) -> Iterator[str]:
        prompt = encode(
            self.engine, self.engine.apply_template(self.messages), allow_net=self.arguments.allow_net
        )
        limit = new_tokens(self.engine, self.arguments.max_new_tokens)
        request = Request(prompt.ids, limit, cancelled=lambda: self.cancelled, fresh=prompt.fresh)
        return self.session.stream(request, self.sampler, self.last)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C ends the answer after the token that is being computed, and nothing else."""

        def cancel(*_: object) -> None:
            self.cancelled = True

        before = signal.signal(signal.SIGINT, cancel)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def main(arguments: Sequence[str]) -> int:
    """Reads turns from the terminal (with line editing) or from a pipe, one a line, until /exit or the end."""
    chat = Chat(_parse(arguments), sys.stdout, sys.stderr)
    interactive = sys.stdin.isatty()
    if interactive:
        importlib.import_module("readline")  # line editing and history for input()
        chat.note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends.")
    failed = False
    try:
        for line in _lines(interactive):
            try:
                if not _turn(chat, line.strip()):
                    break
            except PipelineError as error:
                chat.note(f"error: {error}")
                failed = True
    finally:
        chat.close()
    return 0 if interactive or not failed else 1


def _turn(chat: Chat, line: str) -> bool:
    """False when the person wants to leave."""
    if line.startswith("/"):
        return commands.execute(chat, line)
    if line:
        chat.say(line)
    return True


def _lines(interactive: bool) -> Iterator[str]:
    if not interactive:
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D to leave)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline chat", description=__doc__)
    add_product_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--system", default="", help="the system message")
    return parser.parse_args(list(arguments))
