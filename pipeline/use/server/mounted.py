"""Routes over a pool of engines: what every server of ours does around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route


class Startable(Protocol):
    """A pool of engines."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def mounted(pool: Startable, routes: Sequence[Route], hosts: list[str]) -> Starlette:
    """The ASGI application; the pool lives as long. hosts: Host headers that are answered, against DNS rebinding."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await pool.start()
        try:
            yield
        finally:
            await pool.stop()

    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return Starlette(routes=list(routes), lifespan=lifespan, middleware=[trusted])
