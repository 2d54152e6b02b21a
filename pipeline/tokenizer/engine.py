"""The engine's own tokenizer and template engine, asked from a child process: a native crash is a failed check.

The engine loads its tokenizer before its graph, and keeps it when the graph fails to load. So the tokenizer of a
product can be asked without its weights: the child runs in a folder that holds the tokenizer and an empty graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Render:
    """One call of the template engine. context: variables beside messages (tools, enable_thinking, …)."""

    messages: Sequence[Message]
    context: Mapping[str, Any]
    template: str | None = None


@dataclass(frozen=True)
class Answers:
    """ids of the texts, the texts of ids (UTF-8, maybe cut inside a character), and prompts, in the order asked."""

    ids: list[list[int]]
    texts: list[bytes]
    prompts: list[str]


class EngineTokenizer:
    """Asks the tokenizer in `file` (tokenizer.mtok or .txt). Raises StageFailed when the engine crashes or hangs."""

    def __init__(self, file: Path, timeout: float = 300.0) -> None:
        self.file, self.timeout = file, timeout

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, with the file's prefix ids. A text with U+0000 is cut there by the binding."""
        return self.answer(texts=texts).ids

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[bytes]:
        """What the engine streams for the ids: single ids' pieces, joined. Bytes: it may end inside a character."""
        return self.answer(sequences=sequences).texts

    def render(self, calls: Sequence[Render], eos: str = "") -> list[str]:
        """Chat templates applied (always with add_generation_prompt, as the engine does)."""
        return self.answer(calls=calls, eos=eos).prompts

    def answer(
        self,
        texts: Sequence[str] = (),
        sequences: Sequence[Sequence[int]] = (),
        calls: Sequence[Render] = (),
        eos: str = "",
    ) -> Answers:
        """All three at once: the engine is started, and the file read, once."""
        questions: list[tuple[str, Any]] = [
            *(("encode", text) for text in texts),
            *(("decode", list(ids)) for ids in sequences),
            *(("render", _request(call, eos)) for call in calls),
        ]
        answers = self._ask(questions)
        first, second = len(texts), len(texts) + len(sequences)
        return Answers(answers[:first], [bytes.fromhex(told) for told in answers[first:second]], answers[second:])

    def _ask(self, questions: Sequence[tuple[str, Any]]) -> list[Any]:
        with tempfile.TemporaryDirectory(prefix="tokenizer-") as name:
            folder = Path(name)
            _lay_out(folder, self.file)
            (folder / "request.json").write_text(json.dumps(questions), encoding="utf-8")
            ended = _run_child(folder, self.timeout)
            lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
            if len(lines) < len(questions):
                action, item = questions[len(lines)]
                told = json.dumps(item, ensure_ascii=False)[:200]
                raise StageFailed(f"the engine's tokenizer {ended} on {action} of {told}")
            return [json.loads(line) for line in lines]


def _request(call: Render, eos: str) -> dict[str, Any]:
    return {
        "messages": _as_engine_messages(call.messages),
        "context": dict(call.context),
        "template": call.template,
        "eos": eos,
    }


def _lay_out(folder: Path, file: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"tokenizer_file": file.name}), encoding="utf-8")
    (folder / "llm_config.json").write_text("{}", encoding="utf-8")
    for empty in ("llm.mnn", "llm.mnn.weight", "embeddings_bf16.bin", "answers.jsonl"):
        (folder / empty).touch()
    (folder / file.name).symlink_to(file.resolve())


def _run_child(folder: Path, timeout: float) -> str:
    """How the child ended, in words."""
    command = [sys.executable, "-m", "pipeline.tokenizer.engine", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "child.log").open("wb") as log:
        try:
            ended = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return f"did not answer within {timeout:.0f} s"
    code = ended.returncode
    return f"crashed (signal {-code})" if code < 0 else f"ended with exit code {code}"


def _as_engine_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The binding carries role and content only; the role "json" carries a whole message as its content."""
    plain = {"role", "content"}
    return [
        dict(message)
        if set(message) == plain and isinstance(message["content"], str)
        else {"role": "json", "content": json.dumps(message, ensure_ascii=False)}
        for message in messages
    ]


def _child(folder: Path) -> None:
    import MNN.llm

    questions = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    model = MNN.llm.create(f"{folder}/config.json")
    model._c_obj.load()  # False: the graph is empty. The tokenizer is loaded by then.
    answers = {
        "encode": model.tokenizer_encode,
        "decode": lambda ids: _stream(model, ids),
        "render": lambda call: _render(model, call),
    }
    with (folder / "answers.jsonl").open("w", encoding="utf-8", buffering=1) as file:
        for action, item in questions:
            file.write(json.dumps(answers[action](item)) + "\n")
    os._exit(0)  # the engine may crash in its destructors


def _stream(model: Any, ids: Sequence[int]) -> str:
    return b"".join(_piece(model, index) for index in ids).hex()


def _piece(model: Any, index: int) -> bytes:
    try:
        return bytes(model.tokenizer_decode(index).encode("utf-8"))
    except UnicodeDecodeError as error:  # a token may hold a part of a character
        return bytes(error.object)


def _render(model: Any, call: Mapping[str, Any]) -> str:
    model.set_config({"jinja": {"context": None}})  # settings are merged: variables of the last call would stay
    settings: dict[str, Any] = {"context": call["context"]}
    if call["template"] is not None:
        settings |= {"chat_template": call["template"], "eos": call["eos"]}
    model.set_config({"jinja": settings})
    return str(model.apply_chat_template(call["messages"]))


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
