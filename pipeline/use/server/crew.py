"""Engines for servers whose every request is one piece of work, done at once: embeddings, scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.mnn.runner import Engine, EngineError
from pipeline.use.server.app import Refused, refusal
from pipeline.use.server.pool import Busy

Worker = TypeVar("Worker", bound=Engine)
Result = TypeVar("Result")


class Crew(Generic[Worker]):
    """`workers` loaded engines. waiting: how many requests may stand in the queue; the next one is Busy."""

    def __init__(self, make: Callable[[], Worker], workers: int, waiting: int) -> None:
        self._make, self._workers, self._most_waiting, self._waiting = make, workers, waiting, 0
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._engines: list[Worker] = []

    async def start(self) -> None:
        """Loads all engines. Raises what loading raises."""
        for _ in range(self._workers):
            engine = self._make()
            await asyncio.get_running_loop().run_in_executor(self._threads, engine.load)
            self._engines.append(engine)
            self._free.put_nowait(engine)

    async def stop(self) -> None:
        """Ends the engines' processes."""
        for engine in self._engines:
            await asyncio.to_thread(engine.close)
        self._threads.shutdown(wait=False)

    async def work(self, task: Callable[[Worker], Result]) -> Result:
        """What `task` makes with the first engine that is free. Raises Busy when the queue is full."""
        if self._free.empty() and self._waiting >= self._most_waiting:
            raise Busy
        self._waiting += 1
        try:
            engine = await self._free.get()
        finally:
            self._waiting -= 1
        # Shielded: an engine is free again only when its thread is done, even if the client has gone.
        work = asyncio.get_running_loop().run_in_executor(self._threads, _run, task, engine)
        work.add_done_callback(lambda _: self._free.put_nowait(engine))
        return await asyncio.shield(work)


def _run(task: Callable[[Worker], Result], engine: Worker) -> Result:
    engine.load()  # a fresh process after a crash
    return task(engine)


def refused(error: PipelineError | Refused | Busy) -> Response:
    """The response to a request that came to nothing: 400 for what the client can mend, 429, 500 for the engine."""
    if isinstance(error, Busy):
        full = Refused(429, "overloaded", "too many requests are waiting: try again later")
        return refusal(full, {"Retry-After": "1"})
    if isinstance(error, Refused):
        return refusal(error)
    status, kind = (500, "engine_error") if isinstance(error, EngineError) else (400, "invalid_request_error")
    return refusal(Refused(status, kind, str(error)))
