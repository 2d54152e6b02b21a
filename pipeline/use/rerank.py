"""`python -m pipeline rerank PRODUCT QUERY DOCUMENT …`: how well documents answer a query, by a yes-or-no reranker.

Qwen3-Reranker's own way: the model is asked whether a document meets a query, and its score is the probability of "yes"
against "no" as the next token (the prompt is the one that its authors publish with it).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
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
    with open_engine(options, overrides(options.assignments)) as engine:
        scored = list(zip(scores(engine, options.query, documents, options.instruction), documents, strict=True))
    order = range(len(scored)) if options.in_order else sorted(range(len(scored)), key=lambda n: -scored[n][0])
    for number in order:
        score, document = scored[number]
        print(json.dumps({"index": number, "score": round(score, 6), "text": document}, ensure_ascii=False))
    return 0


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
    parser.add_argument("--instruction", default=INSTRUCTION, help="what makes a document a good one")
    parser.add_argument("--in-order", action="store_true", help="as they were given, not best first")
    return parser.parse_args(list(arguments))
