"""Engines for a server: one process each, a bounded queue before them, and a fresh one for each that dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.mnn.runner import Engine, EngineError
from pipeline.use.media import encode
from pipeline.use.sampler import Sampler, Sampling
from pipeline.use.session import Answer, Request, Session
from pipeline.use.settings import new_tokens
from pipeline.use.sound import Wave

# A piece of text, a failure, or None at the end.
_Piece = str | BaseException | None


class Busy(Exception):
    """More requests wait than the queue may hold."""


@dataclass(frozen=True)
class Work:
    """What an engine is to answer. prompt makes the text, sampling changes the product's sampler. sounds: what the
    text's audio tags stand for.

    A request with a seed asks for the same answer every time, so it does not profit from the cache.
    """

    prompt: Callable[[Engine], str]
    sampling: Callable[[Sampling], Sampling]
    seed: int | None
    max_tokens: int | None
    stops: tuple[str, ...]
    sounds: tuple[Wave, ...] = ()
    pictures: tuple[str, ...] = ()


class Pool:
    """`workers` loaded engines. waiting: how many requests may stand in the queue; the next one is Busy."""

    def __init__(
        self, make: Callable[[], Engine], sampling: Callable[[Engine], Sampling], workers: int, waiting: int
    ) -> None:
        self._make, self._sampling_of = make, sampling
        self._workers, self._most_waiting = workers, waiting
        self._free: asyncio.Queue[Session] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._sessions: list[Session] = []
        self._waiting = 0

    async def start(self) -> None:
        """Loads all engines. Raises what loading raises."""
        for _ in range(self._workers):
            session = await asyncio.get_running_loop().run_in_executor(self._threads, self._load)
            self._free.put_nowait(session)

    async def stop(self) -> None:
        """Ends the engines' processes. Answers that are being written end with them."""
        for session in self._sessions:
            await asyncio.to_thread(session.engine.close)
        self._threads.shutdown(wait=False)

    async def stream(self, work: Work, answer: Answer) -> AsyncGenerator[str, None]:
        """Pieces of text as they come, from the first engine that is free. Raises Busy when the queue is full.

        Leaving the iterator early stops the engine after its current token; it is free again only then.
        """
        session = await self._acquire()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[_Piece] = asyncio.Queue()
        cancelled = threading.Event()

        def emit(piece: _Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        producing = loop.run_in_executor(self._threads, self._produce, session, work, answer, cancelled, emit)
        producing.add_done_callback(lambda done: self._free.put_nowait(done.result()))
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            cancelled.set()

    async def _acquire(self) -> Session:
        if self._free.empty() and self._waiting >= self._most_waiting:
            raise Busy
        self._waiting += 1
        try:
            return await self._free.get()
        finally:
            self._waiting -= 1

    def _produce(
        self,
        session: Session,
        work: Work,
        answer: Answer,
        cancelled: threading.Event,
        emit: Callable[[_Piece], None],
    ) -> Session:
        """In a thread: emits the pieces, and returns the session for the next request (a fresh one after a crash)."""
        try:
            for piece in self._pieces(session, work, answer, cancelled):
                emit(piece)
        except Exception as error:
            # Raised again in `stream`, where the request is.
            emit(error)
            return self._replaced(session) if isinstance(error, EngineError) else session
        emit(None)
        return session

    def _pieces(self, session: Session, work: Work, answer: Answer, cancelled: threading.Event) -> Iterator[str]:
        engine = session.engine
        prompt = encode(engine, work.prompt(engine), work.sounds, pictures=work.pictures)
        sampler = Sampler(work.sampling(self._sampling_of(engine)), work.seed)
        limit = new_tokens(engine, work.max_tokens)
        fresh = prompt.fresh or work.seed is not None
        request = Request(prompt.ids, limit, work.stops, cancelled.is_set, fresh=fresh)
        return session.stream(request, sampler, answer)

    def _replaced(self, session: Session) -> Session:
        """A fresh engine in place of a dead one. If none loads the dead one stays, and every request says so."""
        try:
            fresh = self._load()
        except PipelineError:
            return session
        self._sessions.remove(session)
        session.engine.close(keep_log=True)
        return fresh

    def _load(self) -> Session:
        engine = self._make()
        engine.load()
        session = Session(engine)
        self._sessions.append(session)
        return session
