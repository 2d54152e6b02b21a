"""Routes: /v1/models, /v1/chat/completions, /v1/completions, /health, and a page to chat at /."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.errors import PipelineError
from pipeline.use.server.api import Ask, BadRequest, parse
from pipeline.use.server.mounted import mounted
from pipeline.use.server.pool import Busy, Pool, Work
from pipeline.use.session import Answer

_PAGE = Path(__file__).parent / "page.html"
_POLL_SECONDS = 0.2
Pieces = AsyncGenerator[str, None]


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request; tokens: longest answer; token: what a client must show, "" for nothing."""

    body: int = 1 << 20
    tokens: int = 4096
    token: str = ""


def application(pool: Pool, model: str, limits: Limits, hosts: list[str]) -> Starlette:
    """The ASGI application. hosts: Host headers that are answered, against rebinding of names by web pages."""
    server = _Server(pool, model, limits)

    routes = [
        Route("/", _page),
        Route("/health", health),
        Route("/v1/models", server.models),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.text, methods=["POST"]),
    ]
    return mounted(pool, routes, hosts)


class Refused(Exception):
    """A request that ends with a status of its own."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class _Server:
    def __init__(self, pool: Pool, model: str, limits: Limits) -> None:
        self.pool, self.model, self.limits = pool, model, limits

    async def models(self, request: HttpRequest) -> Response:
        """The one model."""
        return model_list(request, self.model, self.limits)

    async def chat(self, request: HttpRequest) -> Response:
        """A conversation through the product's chat template."""
        return await self._answer(request, "chat")

    async def text(self, request: HttpRequest) -> Response:
        """The continuation of a text as it stands."""
        return await self._answer(request, "text")

    async def _answer(self, request: HttpRequest, kind: str) -> Response:
        try:
            check_token(request, self.limits)
            ask = parse(await json_body(request, self.limits), kind, self.model)
            reply = _Reply(kind, self.model, ask)
            pieces = self._pieces(ask, reply)
            if ask.stream:
                return await _streamed(pieces, reply)
            return await _whole(request, pieces, reply)
        except BadRequest as error:
            return refusal(Refused(400, "invalid_request_error", str(error)))
        except Busy:
            refused = Refused(429, "overloaded", "too many requests are waiting: try again later")
            return refusal(refused, {"Retry-After": "1"})
        except Refused as refused:
            return refusal(refused)
        except PipelineError as error:
            status, kind = (400, "invalid_request_error") if error.exit_code == 3 else (500, "engine_error")
            return refusal(Refused(status, kind, str(error)))

    def _pieces(self, ask: Ask, reply: _Reply) -> Pieces:
        tokens = min(ask.max_tokens, self.limits.tokens) if ask.max_tokens else None
        work = Work(
            prompt=lambda engine: engine.apply_template(ask.messages) if ask.messages else ask.prompt,
            sampling=ask.sampling,
            seed=ask.seed,
            max_tokens=tokens,
            stops=ask.stops,
            sounds=ask.sounds,
            pictures=ask.pictures,
        )
        return self.pool.stream(work, reply.answer)


def check_token(request: HttpRequest, limits: Limits) -> None:
    """Raises Refused (401) if a token is set and the client does not show it."""
    given = request.headers.get("authorization", "")
    if limits.token and not secrets.compare_digest(given.encode(), f"Bearer {limits.token}".encode()):
        raise Refused(401, "authentication_error", "a bearer token is needed")


async def json_body(request: HttpRequest, limits: Limits) -> Any:
    """JSON only: a form or plain text could be sent by any web page without asking."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "invalid_request_error", "the content type must be application/json")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limits.body:
            raise Refused(413, "invalid_request_error", f"the body has more than {limits.body:,} bytes")
    try:
        return json.loads(content)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def model_list(request: HttpRequest, model: str, limits: Limits) -> Response:
    """The one model."""
    try:
        check_token(request, limits)
    except Refused as refused:
        return refusal(refused)
    entry = {"id": model, "object": "model", "created": 0, "owned_by": "local"}
    return JSONResponse({"object": "list", "data": [entry]})


class _Reply:
    """One answer in the protocol's words."""

    def __init__(self, kind: str, model: str, ask: Ask) -> None:
        self.kind, self.model, self.ask = kind, model, ask
        self.answer = Answer()
        self.identity = ("chatcmpl-" if kind == "chat" else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())

    def usage(self) -> dict[str, Any]:
        """Tokens of this answer; `cached_tokens` were not computed again."""
        answer = self.answer
        total = answer.prompt_tokens + len(answer.ids)
        counts = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": len(answer.ids), "total_tokens": total}
        return {**counts, "prompt_tokens_details": {"cached_tokens": answer.cached}}

    def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        text = self.answer.text
        content = {"message": {"role": "assistant", "content": text}} if self.kind == "chat" else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self._reason()}
        return {**self._head(""), "choices": [choice], "usage": self.usage()}

    def chunk(self, text: str | None, first: bool = False, last: bool = False) -> str:
        """One server-sent event."""
        delta: dict[str, Any] = {"content": text} if text is not None else {}
        if first:
            delta = {"role": "assistant", "content": ""}
        content = {"delta": delta} if self.kind == "chat" else {"text": text or ""}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self._reason() if last else None}
        return _event({**self._head(".chunk"), "choices": [choice]})

    def usage_event(self) -> str:
        """The event after the last, if it was asked for."""
        return _event({**self._head(".chunk"), "choices": [], "usage": self.usage()})

    def _head(self, suffix: str) -> dict[str, Any]:
        name = f"chat.completion{suffix}" if self.kind == "chat" else "text_completion"
        return {"id": self.identity, "object": name, "created": self.created, "model": self.model}

    def _reason(self) -> str:
        return "stop" if self.answer.reason == "stop" else "length"


async def _streamed(pieces: Pieces, reply: _Reply) -> Response:
    """The first piece is awaited here, so that what can be refused is refused with a status."""
    first = await anext(pieces, None)
    return StreamingResponse(_events(first, pieces, reply), media_type="text/event-stream")


async def _events(first: str | None, pieces: Pieces, reply: _Reply) -> AsyncIterator[str]:
    try:
        if reply.kind == "chat":
            yield reply.chunk(None, first=True)
        if first is not None:
            yield reply.chunk(first)
        async for piece in pieces:
            yield reply.chunk(piece)
        yield reply.chunk(None, last=True)
        if reply.ask.include_usage:
            yield reply.usage_event()
        yield "data: [DONE]\n\n"
    except PipelineError as error:
        # The status is sent already: the protocol's way is an error event.
        yield _event({"error": {"message": str(error), "type": "engine_error"}})
    finally:
        await pieces.aclose()


async def _whole(request: HttpRequest, pieces: Pieces, reply: _Reply) -> Response:
    """Stops the engine when the client has gone."""

    async def collect() -> None:
        async for _ in pieces:
            pass

    work = asyncio.ensure_future(collect())
    while not work.done():
        await asyncio.wait([work], timeout=_POLL_SECONDS)
        if not work.done() and await request.is_disconnected():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            return Response(status_code=499)
    await work
    return JSONResponse(reply.whole())


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def refusal(refused: Refused, headers: dict[str, str] | None = None) -> Response:
    """The response with the refusal's status, in the protocol's words."""
    body = {"error": {"message": str(refused), "type": refused.kind, "param": None, "code": None}}
    return JSONResponse(body, refused.status, headers)


async def _page(_: HttpRequest) -> Response:
    return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _POLICY})


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def health(_: HttpRequest) -> Response:
    """The server answers."""
    return JSONResponse({"status": "ok"})
