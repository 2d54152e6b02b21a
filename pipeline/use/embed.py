"""`python -m pipeline embed PRODUCT TEXT …`: vectors of texts, as JSON lines or as a NumPy array."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError, nearest
from pipeline.mnn.runner import Embedder
from pipeline.use.settings import check_keys, overrides

NO_PROMPT = "none"


def main(arguments: Sequence[str]) -> int:
    """0 when every text has its vector."""
    options = _parse(arguments)
    texts = read_texts(options.texts)
    if options.out is not None and options.out.suffix not in (".npy", ".jsonl"):
        raise UserError(f"--out {options.out}: vectors are written as .npy or .jsonl")
    with open_embedder(options, overrides(options.assignments)) as engine:
        prompt = prompt_text(engine, options.prompt)
        records = _records(engine, texts, prompt)
        if options.out is None:
            sys.stdout.writelines(_line(record) for record in records)
            return 0
        try:
            _write(options.out, records)
        except OSError as error:
            raise UserError(f"{options.out} cannot be written: {error.strerror}") from None
    print(f"{len(texts)} vectors written to {options.out}", file=sys.stderr)
    return 0


def open_embedder(options: argparse.Namespace, changes: dict[str, Any]) -> Embedder:
    """The product on the engine's embedding class (not loaded yet). UserError for a product of another kind."""
    product = check_keys(options.product)
    kind = product.manifest.get("model", {}).get("task")
    if kind != "embedding":
        does = ": it scores pairs of texts" if kind == "rerank" else ""
        raise UserError(
            f"{options.product} is no embedding product{does}",
            "build one from an embedding model, e.g. doit export model=all-minilm-l6-v2 quant=fp16",
        )
    return Embedder(options.product, changes, options.timeout)


def prompt_text(engine: Embedder, name: str | None) -> str:
    """The text before every text: of the prompt `name`, of the model's default one (None), or "" ("none")."""
    prompts: Mapping[str, str] = engine.sentence.get("prompts", {})
    chosen = str(engine.sentence.get("default_prompt", "")) if name is None else name
    if chosen in ("", NO_PROMPT):
        return ""
    if chosen not in prompts:
        known = ", ".join([*sorted(prompts), NO_PROMPT])
        raise UserError(f"the model has no prompt '{chosen}'.{nearest(chosen, prompts)}", f"known: {known}")
    return prompts[chosen]


def _records(engine: Embedder, texts: Sequence[str], prompt: str) -> Iterator[dict[str, Any]]:
    for text in texts:
        yield {"text": text, "embedding": engine.embed(prompt + text)}


def _line(record: Mapping[str, Any]) -> str:
    vector = [float(number) for number in record["embedding"]]
    return json.dumps({**record, "embedding": vector}, ensure_ascii=False) + "\n"


def _write(out: Path, records: Iterator[dict[str, Any]]) -> None:
    if out.suffix == ".jsonl":
        with out.open("w", encoding="utf-8") as file:
            file.writelines(_line(record) for record in records)
        return
    with out.open("wb") as file:  # before the work, so that a wrong place is noticed at once
        np.save(file, np.stack([record["embedding"] for record in records]))


def read_texts(given: Sequence[str]) -> list[str]:
    """The texts themselves, or the lines of a file if the only one names it (.jsonl: their `text`)."""
    path = Path(given[0])
    if len(given) > 1 or "\n" in given[0] or len(given[0]) > 255 or not path.is_file():
        return list(given)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        raise UserError(f"{path} holds no text", "write one a line")
    if path.suffix != ".jsonl":
        return lines
    return [_from_json(path, number, line) for number, line in enumerate(lines, 1)]


def _from_json(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}:{number}: not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise UserError(f"{path}:{number}: a line needs `text`")
    return str(value["text"])


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline embed", description=__doc__)
    parser.add_argument("product", type=Path, help="an embedding product's folder")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="texts, or one file: a text a line, or .jsonl (text)")
    parser.add_argument("--prompt", help=f"one of the model's prompts; {NO_PROMPT}: not even the default one")
    parser.add_argument("--out", type=Path, help="write here: .npy (float32 [texts, numbers]) or .jsonl")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="a key of config.json for this session (docs/runtime.md)")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one call of the engine")
    return parser.parse_args(list(arguments))
