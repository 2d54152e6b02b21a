"""A conversation with a loaded engine: token by token, over a cache that keeps what two prompts have in common."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.use.sampler import Logits, Sampler


@dataclass
class Answer:
    """One answer. reason: stop (a token or string), length, cancelled. cached: prompt tokens not computed again."""

    prompt_tokens: int = 0
    cached: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    reason: str = "length"
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def prefill_speed(self) -> float:
        """Tokens per second of the part of the prompt that was computed."""
        return (self.prompt_tokens - self.cached) / max(self.prefill_seconds, 1e-9)

    @property
    def decode_speed(self) -> float:
        """Tokens per second of the new tokens (the first comes with the prefill)."""
        return max(0, len(self.ids) - 1) / max(self.decode_seconds, 1e-9)


@dataclass(frozen=True)
class Request:
    """What is asked. stops: strings that end the answer (and are not part of it). cancelled: asked between tokens.

    fresh: compute the whole prompt. With memory=low the engine rounds activations by the batch, so logits after a
    cached beginning differ by as much as 3 from those of a whole prompt; what must be repeatable must start afresh.
    """

    ids: Sequence[int]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    cancelled: Callable[[], bool] = lambda: False
    fresh: bool = False


class Session:
    """An engine and the tokens in its cache. Not for two threads at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cached: list[int] = []

    def stream(self, request: Request, sampler: Sampler, answer: Answer) -> Iterator[str]:
        """Yields text as it comes and fills `answer`. Raises UserError when the prompt leaves no room for an answer."""
        limit = self._room(request)
        logits = self._prefill(request, answer)
        text = _Text(request.stops)
        began = time.perf_counter()
        for token in self._tokens(logits, limit, request, sampler, answer):
            yield from _noted(text.add(self.engine.token_bytes([token])[0]), answer)
            answer.decode_seconds = time.perf_counter() - began
            if text.stopped:
                answer.reason = "stop"
                return
        yield from _noted(text.rest(), answer)

    def complete(self, request: Request, sampler: Sampler) -> Answer:
        """The whole answer at once."""
        answer = Answer()
        for _ in self.stream(request, sampler, answer):
            pass
        return answer

    def _room(self, request: Request) -> int:
        """New tokens that fit behind the prompt into the positions that the model knows (if the product says them)."""
        known = self.engine.product.positions
        if not known:
            return request.max_new_tokens
        room = known - len(request.ids)
        if room <= 0:
            raise UserError(
                f"the prompt has {len(request.ids)} tokens, but the model knows {known} positions",
                "shorten it, or start afresh with /reset",
            )
        return min(request.max_new_tokens, room)

    def _prefill(self, request: Request, answer: Answer) -> Logits:
        ids = list(request.ids)
        if not ids:
            raise UserError("the prompt is empty", "give some text")
        shared = 0 if request.fresh else self._shared(ids)
        answer.prompt_tokens, answer.cached = len(ids), shared
        if shared < len(self.cached) and shared:
            self.engine.erase(shared)
        self.cached = []  # unknown if the call below fails
        began = time.perf_counter()
        logits = self.engine.prefill(ids[shared:], keep=bool(shared))
        answer.prefill_seconds = time.perf_counter() - began
        self.cached = ids
        return logits

    def _shared(self, ids: Sequence[int]) -> int:
        """Tokens at the beginning of `ids` that need not be computed again: of a recurrent state, all or none."""
        shared = min(_common(self.cached, ids), len(ids) - 1)
        return 0 if self.engine.product.recurrent and shared < len(self.cached) else shared

    def _tokens(
        self, logits: Logits, limit: int, request: Request, sampler: Sampler, answer: Answer
    ) -> Iterator[int]:
        """New tokens without the stop token; each is in the cache before the next one is drawn."""
        for number in range(limit):
            if request.cancelled():
                answer.reason = "cancelled"
                return
            token = sampler.pick(logits, [*request.ids, *answer.ids])
            answer.ids.append(token)
            if token in self.engine.product.stop_ids:
                answer.reason = "stop"
                return
            yield token
            if number + 1 < limit:
                logits = self.engine.step(token)
                self.cached.append(token)


class _Text:
    """Bytes of tokens → text: characters only when complete, and nothing that may be the start of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        self._held += self._decoder.decode(data)
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._release(min(places))
        return self._release(len(self._held) - self._possible_stop())

    def rest(self) -> str:
        self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        return max((n for stop in self._stops for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)

    def _release(self, count: int) -> str:
        ready, self._held = self._held[:count], self._held[count:]
        return ready


def _noted(text: str, answer: Answer) -> Iterator[str]:
    if text:
        answer.text += text
        yield text


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


def speeds(answer: Answer) -> str:
    """"[prefill 12 tokens 240.1 tok/s (25 cached) · decode 8 tokens 61.0 tok/s · stop]"."""
    cached = f" ({answer.cached} cached)" if answer.cached else ""
    computed = answer.prompt_tokens - answer.cached
    return (
        f"[prefill {computed} tokens {answer.prefill_speed:.1f} tok/s{cached} · "
        f"decode {len(answer.ids)} tokens {answer.decode_speed:.1f} tok/s · {answer.reason}]"
    )
