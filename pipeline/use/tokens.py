"""`python -m pipeline tokens PRODUCT TEXT`: a text's tokens, the engine's and Hugging Face's side by side."""

from __future__ import annotations

from pipeline.tokenizer.inspect import main

__all__ = ["main"]
