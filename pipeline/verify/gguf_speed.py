"""Let Hugging Face's GGUF loader do its work once. Results are the same; only repetition and wrappers go away.

Loading a tokenizer and a model makes transformers parse the same file four times (about 5 s each for 98,000 token and
merge strings, half of it spent in `numpy.memmap`'s subclass hooks) and build the same table of tensor names once per
module (397 times for 30 layers). For SmolLM2-135M that is 40 s of pure Python, and 10 s with the three memos below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np


class _PlainNumpy:
    """numpy, but `memmap` gives a plain array over the mapped file: slicing it does not run Python hooks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def memmap(path: Any, mode: Any = "r") -> Any:
        return np.asarray(np.memmap(path, mode=mode))


@contextmanager
def parsed_once() -> Iterator[None]:
    """While active, `gguf.GGUFReader` and `gguf.get_tensor_name_map` remember their answers by argument."""
    import gguf
    from gguf import gguf_reader

    before = gguf.GGUFReader, gguf.get_tensor_name_map, gguf_reader.np
    gguf_reader.np = _PlainNumpy()
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(before[0]), cache(before[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, gguf_reader.np = before
