"""/v1/rerank, for cross-encoders: a query and documents in, scores out, best first (the request of Jina and Cohere)."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.errors import PipelineError
from pipeline.mnn.runner import Reranker
from pipeline.use.cross_encoder import open_reranker, scores
from pipeline.use.server.api import BadRequest
from pipeline.use.server.app import Limits, Refused, check_token, health, json_body, model_list
from pipeline.use.server.crew import Crew, refused
from pipeline.use.server.mounted import mounted
from pipeline.use.server.pool import Busy

FIELDS = frozenset({"model", "query", "documents", "top_n", "return_documents", "raw_scores"})
_MOST_DOCUMENTS = 1024
Scored = list[tuple[float, int]]


@dataclass(frozen=True)
class Ask:
    """A checked request. top: how many results are wanted, None for all. echo: the documents come back with them.

    raw: logits instead of what the model's authors make of them.
    """

    query: str
    documents: tuple[str, ...]
    top: int | None
    echo: bool
    raw: bool


def parse(body: Any, model: str) -> Ask:
    """model: the name that this server answers to. Raises BadRequest that names the field."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    unknown = sorted(set(body) - FIELDS)
    if unknown:
        raise BadRequest(f"unsupported field: {', '.join(unknown)}", f"supported: {', '.join(sorted(FIELDS))}")
    if body.get("model") not in (None, model):
        raise BadRequest(f"model: this server has '{model}', not '{body['model']}'")
    if not _is_text(body.get("query")) or not body["query"]:
        raise BadRequest("query: a text that is not empty")
    top = body.get("top_n")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise BadRequest("top_n: a whole number from 1 on")
    echo, raw = (_flag(body, name) for name in ("return_documents", "raw_scores"))
    return Ask(body["query"], _documents(body.get("documents")), top, echo, raw)


def _documents(value: Any) -> tuple[str, ...]:
    """Texts, or objects with a `text`."""
    listed = value if isinstance(value, list) else []
    texts = [item.get("text") if isinstance(item, dict) else item for item in listed]
    if not 0 < len(texts) <= _MOST_DOCUMENTS or not all(_is_text(text) for text in texts):
        raise BadRequest(f"documents: at most {_MOST_DOCUMENTS} texts, or objects with a text; at least one")
    return tuple(str(text) for text in texts)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name}: true or false")
    return bool(value)


class _Server:
    def __init__(self, pool: Crew[Reranker], model: str, limits: Limits) -> None:
        self.pool, self.model, self.limits = pool, model, limits

    async def models(self, request: HttpRequest) -> Response:
        """The one model."""
        return model_list(request, self.model, self.limits)

    async def rerank(self, request: HttpRequest) -> Response:
        """The documents' scores, best first."""
        try:
            check_token(request, self.limits)
            ask = parse(await json_body(request, self.limits), self.model)
            scored = await self.pool.work(functools.partial(_scored, ask=ask))
        except (PipelineError, Refused, Busy) as error:
            return refused(error)
        return JSONResponse(_reply(self.model, ask, scored))


def _scored(engine: Reranker, ask: Ask) -> Scored:
    return list(scores(engine, ask.query, ask.documents, ask.raw))


def _reply(model: str, ask: Ask, scored: Sequence[tuple[float, int]]) -> dict[str, Any]:
    order = sorted(range(len(scored)), key=lambda index: -scored[index][0])[: ask.top]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scored[index][0]} for index in order]
    if ask.echo:
        results = [{**one, "document": {"text": ask.documents[one["index"]]}} for one in results]
    tokens = sum(count for _, count in scored)
    return {"model": model, "results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def application(
    options: argparse.Namespace, keys: dict[str, Any], name: str, limits: Limits, hosts: list[str]
) -> Starlette:
    """The ASGI application of `serve` for a cross-encoder's product."""
    make = functools.partial(open_reranker, options.product, keys, options.timeout)
    pool = Crew(make, options.workers, options.queue)
    server = _Server(pool, name, limits)

    routes = [
        Route("/health", health),
        Route("/v1/models", server.models),
        Route("/v1/rerank", server.rerank, methods=["POST"]),
    ]
    return mounted(pool, routes, hosts)
