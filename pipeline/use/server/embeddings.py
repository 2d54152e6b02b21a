"""/v1/embeddings, for embedding products: texts in, vectors out, in the OpenAI protocol."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.errors import PipelineError
from pipeline.mnn.runner import Embedder
from pipeline.mnn.runner.embedder import Vector
from pipeline.use.embed import open_embedder, prompt_text
from pipeline.use.server.api import BadRequest
from pipeline.use.server.app import Limits, Refused, check_token, health, json_body, model_list
from pipeline.use.server.crew import Crew, refused
from pipeline.use.server.mounted import mounted
from pipeline.use.server.pool import Busy

FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user", "prompt_name"})
_MOST_TEXTS = 2048


@dataclass(frozen=True)
class Ask:
    """A checked request. prompt: a name of the model's prompts, None for its default one."""

    texts: tuple[str, ...]
    as_base64: bool
    dimensions: int | None
    prompt: str | None


def parse(body: Any, model: str) -> Ask:
    """model: the name that this server answers to. Raises BadRequest that names the field."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    unknown = sorted(set(body) - FIELDS)
    if unknown:
        raise BadRequest(f"unsupported field: {', '.join(unknown)}", f"supported: {', '.join(sorted(FIELDS))}")
    if body.get("model") not in (None, model):
        raise BadRequest(f"model: this server has '{model}', not '{body['model']}'")
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise BadRequest("encoding_format: float or base64")
    dimensions, prompt = body.get("dimensions"), body.get("prompt_name")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise BadRequest("dimensions: a whole number")
    if prompt is not None and not isinstance(prompt, str):
        raise BadRequest("prompt_name: a text")
    return Ask(_input(body.get("input")), form == "base64", dimensions, prompt)


def _input(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    good = isinstance(texts, list) and 0 < len(texts) <= _MOST_TEXTS
    if not good or not all(isinstance(text, str) and text and "\0" not in text for text in texts):
        raise BadRequest(f"input: a text, or at most {_MOST_TEXTS} of them, none empty (token ids are not supported)")
    return tuple(texts)


def _embed(engine: Embedder, ask: Ask) -> tuple[list[Vector], int]:
    prompt = prompt_text(engine, ask.prompt)
    texts = [prompt + text for text in ask.texts]
    tokens = sum(len(engine.fit(text)[1]) for text in texts)
    vectors = [engine.embed(text) for text in texts]
    if ask.dimensions not in (None, vectors[0].size):
        raise BadRequest(f"dimensions: this model has {vectors[0].size}, not {ask.dimensions}")
    return vectors, tokens


class _Server:
    def __init__(self, pool: Crew[Embedder], model: str, limits: Limits) -> None:
        self.pool, self.model, self.limits = pool, model, limits

    async def models(self, request: HttpRequest) -> Response:
        """The one model."""
        return model_list(request, self.model, self.limits)

    async def embeddings(self, request: HttpRequest) -> Response:
        """Vectors in the order of the texts."""
        try:
            check_token(request, self.limits)
            ask = parse(await json_body(request, self.limits), self.model)
            vectors, tokens = await self.pool.work(lambda engine: _embed(engine, ask))
        except (PipelineError, Refused, Busy) as error:
            return refused(error)
        return JSONResponse(_reply(self.model, vectors, tokens, ask.as_base64))


def _reply(model: str, vectors: Sequence[Vector], tokens: int, as_base64: bool) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: Vector) -> str:
    """Little-endian float32, as the protocol has it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def application(
    options: argparse.Namespace, keys: dict[str, Any], name: str, limits: Limits, hosts: list[str]
) -> Starlette:
    """The ASGI application of `serve` for an embedding product."""
    pool = Crew(lambda: open_embedder(options, keys), options.workers, options.queue)
    server = _Server(pool, name, limits)

    routes = [
        Route("/health", health),
        Route("/v1/models", server.models),
        Route("/v1/embeddings", server.embeddings, methods=["POST"]),
    ]
    return mounted(pool, routes, hosts)
