"""`python -m pipeline rerank PRODUCT QUERY DOCUMENT …`: how well documents answer a query.

A cross-encoder (bge-reranker, ms-marco-MiniLM) has a head that scores pairs. A text product is asked in
Qwen3-Reranker's own way: whether a document meets a query; its score is the probability of "yes" against "no" as the
next token (the prompt is the one that its authors publish with it).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use import cross_encoder
from pipeline.use.embed import read_texts
from pipeline.use.settings import add_product_options, open_engine, overrides

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def main(arguments: Sequence[str]) -> int:
    """0 when every document has its score; JSON lines, best first unless --in-order."""
    options = _parse(arguments)
    documents = read_texts(options.documents)
    found = _found(options, documents, overrides(options.assignments))
    order = range(len(found)) if options.in_order else sorted(range(len(found)), key=lambda n: -found[n])
    for number in order:
        record = {"index": number, "score": round(found[number], 6), "text": documents[number]}
        print(json.dumps(record, ensure_ascii=False))
    return 0


def _found(options: argparse.Namespace, documents: Sequence[str], changes: dict[str, Any]) -> list[float]:
    """The documents' scores in order. Raises UserError for an option that the product has no use for."""
    if cross_encoder.is_cross_encoder(options.product):
        if options.instruction is not None:
            raise UserError("--instruction: a cross-encoder is told nothing but query and document", "leave it out")
        if options.adapter:
            raise UserError("--adapter: a cross-encoder has none", "leave it out")
        with cross_encoder.open_reranker(options.product, changes, options.timeout) as reranker:
            pairs = cross_encoder.scores(reranker, options.query, documents, options.raw)
            return [score for score, _ in pairs]
    if options.raw:
        raise UserError("--raw: a reranker that answers yes or no has no single logit", "leave it out")
    instruction = INSTRUCTION if options.instruction is None else options.instruction
    with open_engine(options, changes) as engine:
        return list(scores(engine, options.query, documents, instruction))


def scores(engine: Engine, query: str, documents: Sequence[str], instruction: str = INSTRUCTION) -> Iterator[float]:
    """The probability of "yes" for each document, 0 … 1. Raises UserError for a product that cannot answer so."""
    yes, no = (answer_id(engine, word) for word in ("yes", "no"))
    for document in documents:
        ids = engine.tokenize(prompt(query, document, instruction))
        known = engine.product.positions
        if known and len(ids) > known:
            raise UserError(f"a document makes {len(ids)} tokens, but the model knows {known} positions", "shorten it")
        logits = engine.prefill(ids).astype(np.float64)
        yield float(1 / (1 + np.exp(logits[no] - logits[yes])))


def prompt(query: str, document: str, instruction: str = INSTRUCTION) -> str:
    """What the model reads before it answers."""
    return f"{BEFORE}<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}{AFTER}"


def answer_id(engine: Engine, word: str) -> int:
    """The one token that `word` is."""
    ids = engine.tokenize(word)
    if len(ids) != 1:
        raise UserError(f'"{word}" is {len(ids)} tokens here, so this is no reranker that answers yes or no')
    return ids[0]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline rerank", description=__doc__)
    add_product_options(parser)
    parser.add_argument("query")
    parser.add_argument("documents", nargs="+", metavar="DOCUMENT", help="texts, or one file: one a line, or .jsonl")
    parser.add_argument("--instruction", help=f"to one that answers yes or no: what makes a document a good one "
                        f"(default: {INSTRUCTION})")  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="of a cross-encoder the logit, not what it is published as")
    parser.add_argument("--in-order", action="store_true", help="as they were given, not best first")
    return parser.parse_args(list(arguments))
