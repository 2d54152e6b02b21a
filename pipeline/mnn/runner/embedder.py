"""`Embedder`: an embedding product in a child process, one vector for a text."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.mnn.runner.engine import Engine
from pipeline.mnn.runner.product import Product

Vector = npt.NDArray[np.float32]
_WORD = 64  # characters within which a cut word is looked for
CONTENT = "{% for message in messages %}{{ message.content }}{% endfor %}"


class Embedder(Engine):
    """An embedding product on MNN's own embedding class. A context manager, as Engine; overrides as there.

    sentence: what the manifest says of pooling, prompts and the like; {} for a product of another exporter.
    """

    child = "pipeline.mnn.runner.embedding_child"

    def __init__(
        self, path: Path | str, overrides: Mapping[str, Any] | None = None, timeout: float = 600.0, **more: Any
    ) -> None:
        super().__init__(path, overrides, timeout, sampled=True, **more)
        self.sentence: Mapping[str, Any] = self.product.manifest.get("model", {}).get("sentence", {})
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Embedder:
        self.load()
        return self

    def load(self) -> None:
        """As Engine's. An embedding model's keys are read from files only: they are written for this session."""
        if self._process is not None:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="embedder-", ignore_cleanup_errors=True)
        whole, bare = lay_out(self.product, Path(self._folder.name), self.overrides)
        self._start()
        head, _ = self._call("load_embedding", config=str(whole), tokenizer=str(bare))
        self.config = head["config"]
        self.stats["load"] = head["seconds"]

    def embed(self, text: str) -> Vector:
        """float32 [dimensions] of a text (its prompt included), cut at the model's longest. UserError for U+0000."""
        if "\0" in text:
            raise UserError("a text holds U+0000, where the engine would cut it", "take it out")
        fitting, _ = self.fit(text.lower() if self.sentence.get("lowercase") else text)
        head, arrays = self._call("embed", text=fitting)
        self._count("embed", head)
        if not np.isfinite(arrays[0]).all() or not arrays[0].size:
            raise self._failure("gave a vector that is not finite")
        return arrays[0]

    def fit(self, text: str) -> tuple[str, list[int]]:
        """(the beginning of `text` that the model has positions for, its ids with those around it).

        Hugging Face cuts ids. The engine's embedding takes no ids, so the text itself is cut: where its ids are those
        that Hugging Face would keep, or, if it can be cut nowhere so, before them.
        """
        ids = self.tokenize(self.wrapped(text))
        limit = self.product.positions
        if not limit or len(ids) <= limit:
            return text, ids
        after = self._around[1] and self.tokenize(self._around[1])
        wanted = ids[: limit - len(after)] + ids[len(ids) - len(after) :]
        start = self._longest(text, limit)
        for end in range(start, min(start + _WORD, len(text)) + 1):
            found = self.tokenize(self.wrapped(text[:end]))
            if found == wanted:
                return text[:end], found
        return text[:start], self.tokenize(self.wrapped(text[:start]))

    def _longest(self, text: str, limit: int) -> int:
        """By bisection: characters that make at most `limit` ids. Counts grow with the text but for a word's parts,
        which may be more than the word, so this may stop early within a word."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(self.tokenize(self.wrapped(text[:middle]))) <= limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def wrapped(self, text: str) -> str:
        """The text as the product's template writes it: with the special tokens before and after it."""
        return text.join(self._around)

    @property
    def _around(self) -> tuple[str, str]:
        template = str((self.product.config.get("jinja") or {}).get("chat_template", CONTENT))
        before, _, after = template.partition(CONTENT)
        return before, after

    def close(self, keep_log: bool = False) -> None:
        """As Engine's."""
        super().close(keep_log)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def lay_out(product: Product, folder: Path, overrides: Mapping[str, Any]) -> tuple[Path, Path]:
    """Two config files: of the whole product (its files linked), and of its tokenizer with an empty graph.

    overrides: merged over the product's own keys.
    """
    keys = {**json.loads(product.config_file.read_text("utf-8")), **overrides}
    whole, bare = folder / "whole", folder / "bare"
    for place in (whole, bare):
        place.mkdir()
    for path in product.folder.iterdir():
        if path.is_file() and path.name != "config.json":
            (whole / path.name).symlink_to(path.resolve())
    tokenizer = str(keys.get("tokenizer_file", "tokenizer.txt"))
    (bare / tokenizer).symlink_to((product.folder / tokenizer).resolve())
    for empty in ("llm.mnn", "llm.mnn.weight", "embeddings_bf16.bin"):
        (bare / empty).touch()
    (bare / "llm_config.json").write_text("{}", "utf-8")
    (bare / "config.json").write_text(json.dumps({"tokenizer_file": tokenizer}), "utf-8")
    (whole / "config.json").write_text(json.dumps(dict(keys)), "utf-8")
    return whole / "config.json", bare / "config.json"
