"""The child process: `python -m pipeline.mnn.runner.child FD`. Owns the native object; file descriptor FD is a socket.

Its stdout and stderr belong to the engine, which echoes prompts and messages there; nothing of that is ever parsed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pipeline.build.memory import peak
from pipeline.mnn.runner import wire

Reply = tuple[Any, list[wire.Array]]


class Session:
    """One loaded model. Every public method is a call that the parent may make; its keywords are the call's."""

    def __init__(self) -> None:
        self._model: Any = None
        self._loaded: dict[str, Any] = {}  # "" = the base; adapters by file name, each with a cache of its own
        self._waiting = False  # whether rows of an encoder wait in the engine for the next forward

    def load(self, config: str, overrides: dict[str, Any], adapter: str) -> Reply:
        """On the raw object, since the wrapper's load() throws the outcome away."""
        # `MNN.llm` as an attribute is the native module; the Python wrapper is found by its name only.
        model = importlib.import_module("MNN.llm").create(config)._c_obj
        model.set_config(json.dumps(overrides))  # even {}: only then does the engine read `chunk` from the files
        began = time.perf_counter()
        if not model.load():
            raise RuntimeError("the engine's load() said no")
        self._loaded[""] = self._model = model
        config = json.loads(model.dump_config())
        if adapter:
            self.select(adapter)
        return {"seconds": time.perf_counter() - began, "config": config}, []

    def select(self, adapter: str) -> Reply:
        """Further calls go to the base ("") or to a split LoRA, loaded on first use; they share the base's weights."""
        if adapter not in self._loaded:
            # Of the wrapper's LoRA functions none works in 3.6.1; the raw object's create_lora does.
            model = self._loaded[""].create_lora(adapter)
            if not model.load():
                raise RuntimeError(f"the engine's load() of {adapter} said no")
            self._loaded[adapter] = model
        self._model = self._loaded[adapter]
        return None, []

    def release(self, adapter: str) -> Reply:
        """Forgets a loaded adapter and its cache; the base takes over if it was the selected one."""
        released = self._loaded.pop(adapter, None)
        if released is self._model:
            self._model = self._loaded[""]
        del released
        gc.collect()
        return None, []

    def tokenize(self, text: str) -> Reply:
        self._waiting |= "<img>" in text
        return [int(token) for token in self._model.tokenizer_encode(text)], []

    def tokenize_sounds(self, text: str, arrays: list[wire.Array]) -> Reply:
        """Ids with the sounds' places in them; the encoder's rows for these wait in the engine for the next forward."""
        expr = importlib.import_module("MNN.expr")
        self._clear()
        waves = [expr.const(array.tolist(), [len(array)], expr.NHWC, expr.float) for array in arrays]
        prompt = {"text": text, "audios": [{"waveform": one} for one in waves]}
        self._waiting = True
        return [int(token) for token in self._model.tokenizer_encode(prompt)], []

    def sound_features(self, arrays: list[wire.Array]) -> Reply:
        """The mel features of one sound, as the engine's own path to the encoder computes them."""
        expr, audio = importlib.import_module("MNN.expr"), importlib.import_module("MNN.audio")
        wave = expr.const(arrays[0].tolist(), [len(arrays[0])], expr.NHWC, expr.float)
        found = expr.convert(audio.whisper_fbank(wave, 16000, 128, 400, 160, 0), expr.NCHW)
        return None, [np.asarray(found.read(), dtype=np.float32).reshape(1, 128, -1).copy()]

    def token_bytes(self, ids: list[int]) -> Reply:
        """The bytes of each token. A token that ends inside a UTF-8 character arrives as a UnicodeDecodeError."""
        return [self._bytes(token).decode("latin-1") for token in ids], []

    def apply_template(self, messages: list[dict[str, str]]) -> Reply:
        return str(self._model.apply_chat_template(messages)), []

    def logits(self, ids: list[int]) -> Reply:
        """Logits of every position of a fresh sequence. all_logits must be off again before anything is sampled.

        Runs of `chunk` tokens would leave the last run's rows only.
        """
        self._waiting = False
        with self._in_one_run():
            self._configure(all_logits=True)
            self._clear()
            rows, seconds = self._forward(ids)
            self._configure(all_logits=False)
        self._clear()
        return {"seconds": seconds}, [rows]

    def prefill(self, ids: list[int], keep: bool) -> Reply:
        """Logits after the last of `ids`. keep=True appends to the cache, otherwise the sequence is a fresh one."""
        if not keep:
            self._clear()
        with self._undivided():
            rows, seconds = self._forward(ids)
        return {"seconds": seconds}, [rows[-1]]

    def erase(self, begin: int) -> Reply:
        """Forgets the cached tokens from position `begin` on (takes effect at the next forward)."""
        if begin < self._model.get_current_history():
            self._model.erase_history(begin, 0)
        return None, []

    def generate(self, ids: list[int], max_new_tokens: int) -> Reply:
        """New ids of the engine's own loop and sampler, the stop token among them."""
        self._clear()
        self._model.generate_init()
        began = time.perf_counter()
        with self._undivided():
            new = [int(token) for token in self._model.generate(ids, max_new_tokens)]
        return {"ids": new, "seconds": time.perf_counter() - began}, []

    def response(self, prompt: str, max_new_tokens: int) -> Reply:
        """The engine's whole path: template, tokenizer, sampler, text."""
        self._clear()
        began = time.perf_counter()
        text = self._model.response(prompt, 0, max_new_tokens)
        return {"text": str(text), "seconds": time.perf_counter() - began}, []

    def memory(self) -> Reply:
        """Peak resident bytes of this process so far."""
        return peak(), []

    @contextlib.contextmanager
    def _in_one_run(self) -> Iterator[None]:
        """While open, prompts are not cut into runs."""
        config = json.loads(self._model.dump_config())
        runs = {name: config[name] for name in ("chunk", "chunk_limits") if config.get(name)}
        if runs:
            self._configure(**{name: type(value)() for name, value in runs.items()})
        try:
            yield
        finally:
            if runs:
                self._configure(**runs)

    def _undivided(self) -> contextlib.AbstractContextManager[None]:
        """In one run if rows of pictures or sounds wait: the end of a run must not cut through them."""
        waiting, self._waiting = self._waiting, False
        return self._in_one_run() if waiting else contextlib.nullcontext()

    def _configure(self, **keys: Any) -> None:
        self._model.set_config(json.dumps(keys))

    def _clear(self) -> None:
        self._model.reset()

    def _forward(self, ids: list[int]) -> tuple[wire.Array, float]:
        """float32 [rows, vocab]."""
        began = time.perf_counter()
        rows = np.asarray(self._model.forward(ids).read(), dtype=np.float32)
        return rows.reshape(-1, rows.shape[-1]), time.perf_counter() - began

    def _bytes(self, token: int) -> bytes:
        try:
            return str(self._model.tokenizer_decode(token)).encode()
        except UnicodeDecodeError as error:
            return error.object


def main(descriptor: int, session: Session) -> None:
    """Answers calls until the parent hangs up, then leaves without destructors (they crash with two models).

    Ctrl-C in a terminal reaches all its processes; it is the parent's to act upon.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        while True:
            head, given = wire.receive(connection)
            method: Callable[..., Reply] = getattr(session, head["call"])
            try:
                value, arrays = method(**head["arguments"], **({"arrays": given} if given else {}))
            except Exception as error:
                # The parent turns any failure of a call into an EngineError; the log keeps where it came from.
                wire.send(connection, {"error": f"{type(error).__name__}: {error}"})
            else:
                wire.send(connection, {"value": value}, arrays)
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Session())
