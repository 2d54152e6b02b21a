"""Shrinks a text on which two tokenizers differ to one from which no character can be left out."""

from __future__ import annotations

from collections.abc import Callable

ROUNDS = 40


def shortest(text: str, differs: Callable[[list[str]], list[bool]]) -> str:
    """Drops chunks, halving their size, as long as the difference stays. `differs` judges many candidates at once."""
    size = max(1, len(text) // 2)
    for _ in range(ROUNDS):
        candidates = [text[:at] + text[at + size :] for at in range(0, len(text), size)]
        candidates = [candidate for candidate in candidates if candidate]
        smaller = [candidate for candidate, wrong in zip(candidates, differs(candidates), strict=True) if wrong]
        if smaller:
            text = min(smaller, key=len)
            size = max(1, min(size, len(text) // 2))
        elif size == 1:
            break
        else:
            size //= 2
    return text
