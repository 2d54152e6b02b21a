"""`python -m pipeline run PRODUCT PROMPTS`: answers every line of a file; resumable, and repeatable with a seed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from typing import Any, TextIO

from pipeline.errors import UserError
from pipeline.mnn.runner import EngineError
from pipeline.use.media import encode
from pipeline.use.prompts import Prompt, read_prompts
from pipeline.use.sampler import Sampler
from pipeline.use.session import Answer, Request, Session
from pipeline.use.settings import (
    add_product_options,
    add_sampling_options,
    new_tokens,
    open_engine,
    overrides,
    positive,
    sampling_of,
)


class Runner:
    """`arguments.batch` engines side by side, each answering one prompt at a time."""

    def __init__(self, arguments: argparse.Namespace, stack: ExitStack) -> None:
        self.arguments = arguments
        self.keys = overrides(arguments.assignments)
        self._free: Queue[Session] = Queue()
        for _ in range(arguments.batch):
            self._free.put(Session(stack.enter_context(open_engine(arguments, self.keys))))

    def answer(self, prompt: Prompt) -> dict[str, Any]:
        """The record of one prompt; an engine's failure is a record with `error`, and a fresh engine for the next."""
        session = self._free.get()
        try:
            answer = self._ask(session, prompt)
        except (EngineError, UserError) as error:
            if isinstance(error, EngineError):
                session = self._fresh(session)
            return {**_head(prompt), "error": str(error)}
        finally:
            self._free.put(session)
        return {**_head(prompt), **_body(answer)}

    def _ask(self, session: Session, prompt: Prompt) -> Answer:
        """A seed of its own for every line, so that answers depend neither on the order nor on the batch."""
        engine = session.engine
        seed = None if self.arguments.seed is None else self.arguments.seed + prompt.line
        sampler = Sampler(sampling_of(engine, self.keys, self.arguments.greedy), seed)
        ids = encode(
            engine, engine.apply_template(prompt.messages), allow_net=self.arguments.allow_net
        ).ids
        limit = new_tokens(engine, self.arguments.max_new_tokens)
        return session.complete(Request(ids, limit, fresh=True), sampler)

    def _fresh(self, session: Session) -> Session:
        session.engine.close(keep_log=True)
        session.engine.load()
        return Session(session.engine)


def _head(prompt: Prompt) -> dict[str, Any]:
    return {**prompt.extra, "line": prompt.line, "prompt": prompt.text}


def _body(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "reason": answer.reason,
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": len(answer.ids),
        "prefill_seconds": round(answer.prefill_seconds, 6),
        "decode_seconds": round(answer.decode_seconds, 6),
    }


def main(arguments: Sequence[str]) -> int:
    """0 if every line was answered, 1 if one was not."""
    options = _parse(arguments)
    prompts = read_prompts(options.prompts, options.system)
    if options.out is None:
        return _run(options, prompts, sys.stdout, as_json=options.prompts.suffix == ".jsonl")
    done = _done(options.out)
    left = [prompt for prompt in prompts if prompt.line not in done]
    if done:
        print(f"{len(prompts) - len(left)} of {len(prompts)} lines are answered already", file=sys.stderr)
    try:
        with options.out.open("a", encoding="utf-8") as file:
            return _run(options, left, file, as_json=True)
    except OSError as error:
        raise UserError(f"{options.out} cannot be written: {error.strerror}") from None


def _run(options: argparse.Namespace, prompts: list[Prompt], out: TextIO, as_json: bool) -> int:
    failed = 0
    with ExitStack() as stack:
        runner = Runner(options, stack)
        for record in _in_order(runner, prompts, options.batch):
            failed += "error" in record
            out.write(_written(record, as_json))
            out.flush()
    if failed:
        print(f"error: {failed} of {len(prompts)} lines were not answered", file=sys.stderr)
    return 1 if failed else 0


def _in_order(runner: Runner, prompts: list[Prompt], batch: int) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(batch) as pool:
        yield from pool.map(runner.answer, prompts)


def _written(record: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(record, ensure_ascii=False) + "\n"
    return f"# {record['prompt']}\n{record.get('answer', 'error: ' + record.get('error', ''))}\n\n"


def _done(out: Path) -> set[int]:
    """Lines that an earlier run answered; an unfinished last line (the run was killed) is cut off."""
    if not out.is_file():
        return set()
    kept: list[str] = []
    lines: set[int] = set()
    for text in out.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(text)
            number = int(record["line"])
        except (ValueError, KeyError, TypeError):
            break
        if "error" not in record:
            kept.append(text + "\n")
            lines.add(number)
    out.write_text("".join(kept), encoding="utf-8")
    return lines


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline run", description=__doc__)
    add_product_options(parser)
    parser.add_argument("prompts", type=Path, help="a text file, one prompt a line, or .jsonl (prompt or messages)")
    add_sampling_options(parser)
    parser.add_argument("--system", default="", help="the system message of prompts that have none")
    parser.add_argument("--batch", type=positive, default=1, help="engines side by side (each takes its own memory)")
    parser.add_argument("--out", type=Path, help="append JSON lines here; lines answered already are left out")
    return parser.parse_args(list(arguments))
