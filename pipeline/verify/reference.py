"""What Hugging Face says about a model: token ids, chat template, greedy answer, logits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.build.stage import Log
from pipeline.errors import StageFailed
from pipeline.verify import approximate, huggingface, text
from pipeline.verify.files import EXACT_LOGITS, LOGITS, REFERENCE

FLOAT32 = 4
OVERHEAD = 600 << 20  # torch, transformers and a tokenizer, measured
EXACT_POSITIONS = 64


def memory_estimate(parameters: int, rows: int, vocabulary: int) -> int:
    """Peak bytes of a float32 reference: weights, one sequence's logits twice (HF's and the file's), the libraries."""
    return parameters * FLOAT32 + 2 * rows * vocabulary * FLOAT32 + OVERHEAD


def describe(tokenizer: Any, verify: Mapping[str, Any]) -> dict[str, Any]:
    """The part that needs no weights: token ids of the fixed texts, rendered conversations, evaluation sequences."""
    question = str(verify["question"])
    return {
        "format": 1,
        "texts": [{"text": line, "ids": plain_ids(tokenizer, line)} for line in text.MULTILINGUAL],
        "templates": [render(tokenizer, messages) for messages in text.conversations(question)],
        "prompt": prompt_ids(tokenizer, question),
        "evaluation": {
            "sha256": text.text_digest(text.evaluation_text()),
            "sequences": sequences(tokenizer, int(verify["sequences"]), int(verify["length"])),
        },
        "answer": None,
        "logits": None,
        "skipped": "",
    }


def plain_ids(tokenizer: Any, line: str) -> list[int]:
    """Token ids of a text as it stands, without the tokens that a tokenizer puts around it."""
    return [int(token) for token in tokenizer(line, add_special_tokens=False)["input_ids"]]


def prefix_ids(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before a text (a BOS, usually)."""
    whole, bare = list(tokenizer("a")["input_ids"]), plain_ids(tokenizer, "a")
    start = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
    return [int(token) for token in whole[:start]]


def sequences(tokenizer: Any, count: int, length: int) -> list[list[int]]:
    """`count` runs of `length` tokens of the evaluation text, each with the tokenizer's own prefix.

    Raises StageFailed if the text is too short for the request.
    """
    prefix, step = prefix_ids(tokenizer), length - len(prefix_ids(tokenizer))
    ids = plain_ids(tokenizer, text.evaluation_text()[: 12 * length * count])
    if len(ids) < count * step or step < 1:
        raise StageFailed(
            f"the evaluation text has {len(ids)} tokens, verify.sequences × verify.length asks for {count} × {length}",
            "ask for fewer or shorter sequences",
        )
    return [prefix + ids[n * step : (n + 1) * step] for n in range(count)]


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A conversation through the chat template: text and ids; or the reason why there is nothing to compare."""
    told: dict[str, Any] = {"messages": list(messages), "text": None, "ids": None, "reason": ""}
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return {**told, "reason": "the model has no chat template"}
    if "strftime_now" in str(template):
        return {**told, "reason": "the chat template prints today's date"}
    try:
        rendered = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may refuse a role in any way it likes
        return {**told, "reason": f"the chat template refuses this conversation: {error}"}
    return {**told, "text": str(rendered), "ids": plain_ids(tokenizer, str(rendered))}


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """What the greedy answer continues: the question through the chat template, or as plain text with its prefix."""
    if not getattr(tokenizer, "chat_template", None):
        return prefix_ids(tokenizer) + plain_ids(tokenizer, question)
    messages = [{"role": "user", "content": question}]
    return plain_ids(tokenizer, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def add_model(told: dict[str, Any], model: Any, tokenizer: Any, verify: Mapping[str, Any], out: Path, log: Log) -> None:
    """The part that needs the weights: fills `told`, writes `logits.npy` (float32 [sequences, length, vocabulary]).

    `logits_fp16.npy` (float32 [64, vocabulary]) are those of the first positions after the matrices were rounded to
    fp16: what an fp16 product has to reproduce exactly. The model is used up afterwards.
    """
    rows = told["evaluation"]["sequences"]
    stops = huggingface.stop_ids(model, tokenizer)
    limit = int(verify["max_new_tokens"])
    told["stop_ids"] = stops
    told["answer"] = asdict(huggingface.greedy(model, tokenizer, told["prompt"], stops, limit))
    written: np.memmap[Any, np.dtype[np.float32]] | None = None
    for number, ids in enumerate(rows):
        logits = huggingface.sequence_logits(model, ids)
        if written is None:
            shape = (len(rows), *logits.shape)
            written = np.lib.format.open_memmap(out / LOGITS, mode="w+", dtype=np.float32, shape=shape)
        written[number] = logits
        log.progress(number + 1, len(rows), "reference sequences")
    told["logits"] = LOGITS
    if written is not None and approximate.is_capped(model):
        told["without_softcap"] = approximate.cost(model, rows, written)
    told["bfloat16_table"] = huggingface.bfloat16_table(model)
    told["rounded"] = huggingface.round_matrices(model)
    np.save(out / EXACT_LOGITS, huggingface.sequence_logits(model, rows[0][:EXACT_POSITIONS]))


def write(told: Mapping[str, Any], out: Path) -> None:
    """`reference.json`, one line per top-level key's content, stable bytes."""
    (out / REFERENCE).write_text(json.dumps(told, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
