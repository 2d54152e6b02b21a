"""`Engine`: a loaded product in a child process, with every way of asking it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import pipeline
from pipeline.errors import StageFailed
from pipeline.mnn.runner import wire
from pipeline.mnn.runner.product import Product, ProductError, check_weights, open_product, refuse_recurrent

Logits = npt.NDArray[np.float32]
_LOG_LINES = 3


class EngineError(StageFailed):
    """The engine crashed, hung, refused or answered nothing."""


class Engine:
    """A product on MNN, in a child process of its own. A context manager; entering it loads the model.

    path: a product's folder or a config file in it. overrides: config.json keys for this session (merged last, as the
    engine's set_config does): memory, precision, thread_num, dynamic_option, … The sampler is greedy unless
    `overrides` names a sampler_type, or `sampled` leaves the product's own. adapter: the file name of a split LoRA.
    timeout: seconds for one call. log: file for the engine's own output; kept after a failure in any case.
    stats: seconds of the calls so far ("load", "prefill", "step", "generate"). child: the module that the child runs.
    """

    child = "pipeline.mnn.runner.child"

    def __init__(
        self,
        path: Path | str,
        overrides: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        *,
        sampled: bool = False,
        adapter: str = "",
        log: Path | None = None,
    ) -> None:
        self.product: Product = open_product(path)
        self.overrides = {} if sampled else {"sampler_type": "greedy"}
        self.overrides.update(overrides or {})
        refuse_recurrent(self.product.folder, self.overrides if self.product.recurrent else {})
        self.timeout = timeout
        self.adapter = adapter
        self.stats: dict[str, float] = {}
        self.config: dict[str, Any] = {}
        self.loaded: set[str] = set()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._has_state = False
        self._own_log = log is None
        self.log = log or _new_log()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._check_adapter(adapter)

    def __enter__(self) -> Engine:
        self.load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep_log=isinstance(error, EngineError))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: the first id that is out of range."""
        return self.product.vocab_size

    def load(self) -> None:
        """Starts the child and loads the model; does nothing while one runs. After a failure or close: a new child."""
        if self._process is not None:
            return
        self._start()
        head, _ = self._call(
            "load", config=str(self.product.config_file), overrides=self.overrides, adapter=self.adapter
        )
        self.config = head["config"]
        self.loaded = {self.adapter} - {""}
        self._has_state = False
        self.stats["load"] = head["seconds"]

    def select(self, adapter: str = "") -> None:
        """Further calls go to a split LoRA in the product's folder, or to the base (""). Each has a cache of its own.

        Raises ProductError for a file that is missing or reads beyond the weights: the engine would crash.
        """
        self._check_adapter(adapter)
        self._call("select", adapter=adapter)
        self.adapter = adapter
        self.loaded |= {adapter} - {""}

    def release(self, adapter: str) -> None:
        """Frees a split LoRA that was selected before, with its cache; the base is selected if it was the current one.

        Raises EngineError for the base itself and for an adapter that was not loaded.
        """
        if not adapter or adapter not in self.loaded:
            what = f"{adapter} is not loaded" if adapter else "the base cannot be released"
            raise EngineError(f"{self.product.folder.name}: {what}", "select an adapter first")
        self._call("release", adapter=adapter)
        self.loaded.discard(adapter)
        if self.adapter == adapter:
            self.adapter = ""

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`, special tokens in it recognised, the tokenizer's prefix tokens before it."""
        ids, _ = self._call("tokenize", text=text)
        return list(ids)

    def tokenize_sounds(self, text: str, sounds: Sequence[Logits]) -> list[int]:
        """The ids of a text in which <audio>audio_0</audio>, … stand for `sounds`, float32 [samples] at 16 kHz.

        The sounds are heard now; their rows go into the next prefill or logits, which must be of these ids.
        """
        ids, _ = self._call("tokenize_sounds", sounds, text=text)
        pad = int(self.product.config.get("audio_pad", -1))
        if list(ids).count(pad) < len(sounds):
            raise self._failure("did not take the sounds")
        return list(ids)

    def sound_features(self, sound: Logits) -> Logits:
        """float32 [1, 128, frames]: what the encoder is given for `sound`, float32 [samples] at 16 kHz."""
        _, arrays = self._call("sound_features", [sound])
        return arrays[0]

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token (a token may end inside a UTF-8 character)."""
        pieces, _ = self._call("token_bytes", ids=self._checked(ids))
        return [piece.encode("latin-1") for piece in pieces]

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`; an incomplete UTF-8 character becomes U+FFFD."""
        return b"".join(self.token_bytes(ids)).decode("utf-8", "replace")

    def apply_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat template of the product over `messages` (role, content), with the generation prompt."""
        text, _ = self._call("apply_template", messages=[dict(message) for message in messages])
        return str(text)

    def logits(self, ids: Sequence[int]) -> Logits:
        """float32 [len(ids), vocab] of a fresh sequence; the cache is empty afterwards."""
        self._start_over(len(ids))
        head, arrays = self._call("logits", ids=self._checked(ids))
        if arrays[0].shape[0] != len(ids):
            raise self._failure(f"gave {arrays[0].shape[0]} rows of logits for {len(ids)} tokens")
        self._count("logits", head)
        return arrays[0]

    def prefill(self, ids: Sequence[int], keep: bool = False) -> Logits:
        """float32 [vocab] after `ids`; a fresh sequence unless `keep` appends them to the cached one."""
        if not keep:
            self._start_over(len(ids))
        head, arrays = self._call("prefill", ids=self._checked(ids), keep=keep)
        self._count("prefill", head)
        return arrays[0]

    def step(self, token: int) -> Logits:
        """float32 [vocab] after one more token of the cached sequence."""
        head, arrays = self._call("prefill", ids=self._checked([token]), keep=True)
        self._count("step", head)
        return arrays[0]

    def erase(self, begin: int) -> None:
        """Forgets the cached tokens from position `begin` on. EngineError for a model with a recurrent state."""
        if self.product.recurrent:
            raise EngineError(
                f"{self.product.folder.name}: the model's recurrent state cannot be taken back",
                "start a fresh sequence",
            )
        self._call("erase", begin=begin)

    def generate(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """At most `max_new_tokens` new ids of a fresh sequence, by the engine's own loop; a stop id ends and closes it.

        Raises EngineError when it gives none, or ends early without a stop id (how it reports an internal error).
        """
        self._start_over(len(ids))
        head, _ = self._call("generate", ids=self._checked(ids), max_new_tokens=max_new_tokens)
        new = list(head["ids"])
        self._count("generate", head)
        ended = len(new) >= max_new_tokens or (new and new[-1] in self.product.stop_ids)
        if max_new_tokens > 0 and not ended:
            raise self._failure(f"stopped after {len(new)} tokens without a stop token")
        return new

    def response(self, prompt: str, max_new_tokens: int = 128) -> str:
        """The engine's own answer to a user's message, through its template, tokenizer and sampler."""
        if self.product.recurrent:
            self._start_over(len(self.tokenize(prompt)))
        head, _ = self._call("response", prompt=prompt, max_new_tokens=max_new_tokens)
        self._count("response", head)
        if not head["text"]:
            raise self._failure("answered nothing")
        return str(head["text"])

    def peak_memory(self) -> int:
        """Peak resident bytes of the child."""
        value, _ = self._call("memory")
        return int(value)

    def close(self, keep_log: bool = False) -> None:
        """Ends the child; the log goes too unless it was asked for or something failed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None
        if self._own_log and not keep_log:
            self.log.unlink(missing_ok=True)

    def _start_over(self, count: int) -> None:
        """Called before a fresh sequence that begins with `count` tokens.

        The engine sets a recurrent state to zero before two tokens or more only (CPULinearAttention.cpp, tag 3.6.1):
        before a single one, only a new child is sure to have none.
        """
        if self.product.recurrent and self._has_state and count < 2:
            self.close(keep_log=True)
            self.load()
        self._has_state = True

    def _check_adapter(self, adapter: str) -> None:
        if not adapter:
            return
        path = self.product.folder / adapter
        if Path(adapter).name != adapter or not path.is_file():
            raise ProductError(f"{path} is missing", "give the name of a file in the product's folder")
        check_weights(path, self.product.file("llm_weight", "llm.mnn.weight"))

    def _start(self) -> None:
        ours, theirs = Pipe(duplex=True)
        # The engine drops cache files into its working folder.
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        root = str(Path(pipeline.__file__).parents[1])
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.child, str(theirs.fileno())],
                cwd=self._scratch.name,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path(root))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self._connection = ours

    def _call(
        self, call: str, arrays: Sequence[wire.Array] = (), **arguments: Any
    ) -> tuple[Any, list[wire.Array]]:
        if self._connection is None:
            raise EngineError(f"{self.product.folder.name}: the engine is not running", "enter the Engine with `with`")
        try:
            wire.send(self._connection, {"call": call, "arguments": arguments}, arrays)
            if not self._connection.poll(self.timeout):
                raise self._failure(f"gave no answer to {call} within {self.timeout:g} s")
            head, arrays = wire.receive(self._connection)
        except (EOFError, OSError):
            raise self._failure(f"{self._how_it_ended()} during {call}") from None
        if "error" in head:
            raise self._failure(f"failed in {call} ({head['error']})")
        return head["value"], arrays

    def _checked(self, ids: Sequence[int]) -> list[int]:
        plain = [int(token) for token in ids]
        bad = [token for token in plain if not 0 <= token < self.vocab_size]
        if bad or not plain:
            what = f"token ids out of range 0 … {self.vocab_size - 1}: {bad[:5]}" if bad else "an empty list of tokens"
            raise EngineError(f"{self.product.folder.name}: {what}", "tokenize with this product's own tokenizer")
        return plain

    def _count(self, what: str, head: Mapping[str, Any]) -> None:
        self.stats[what] = self.stats.get(what, 0.0) + head["seconds"]

    def _failure(self, what: str) -> EngineError:
        """Ends the child (its state is unknown) and says what happened, with the engine's last words."""
        self.close(keep_log=True)
        words = " | ".join(_last_lines(self.log))
        said = f": {words}" if words else ""
        return EngineError(f"the engine {what} for {self.product.folder.name}{said}", f"see {self.log}")

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "was gone"
        code = _end(self._process)
        if code >= 0:
            return f"left with exit code {code}"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _new_log() -> Path:
    descriptor, name = tempfile.mkstemp(prefix="engine-", suffix=".log")
    os.close(descriptor)
    return Path(name)


def _search_path(root: str) -> Iterator[str]:
    yield root
    if os.environ.get("PYTHONPATH"):
        yield os.environ["PYTHONPATH"]


def _end(process: subprocess.Popen[bytes]) -> int:
    """Waits shortly for a child that has been told to go, then kills it."""
    try:
        return process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _last_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "The device supports" not in line]
    return [line[:200] for line in lines[-_LOG_LINES:]]
