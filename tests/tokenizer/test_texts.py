"""Texts in bulk: sorted as Python sorts their bytes, and written as Python would one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageFailed
from pipeline.tokenizer import binary
from pipeline.tokenizer.texts import Texts

# Few characters, so that many texts begin alike; NUL, which is what is behind a text's end, too.
PIECES = st.lists(st.tuples(st.text("\0\x01aé▁😀", max_size=14), st.booleans()), max_size=40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(PIECES)
def test_order_is_that_of_the_bytes(pieces: list[tuple[str, bool]]) -> None:
    texts, behind = [text for text, _ in pieces], [last for _, last in pieces]
    expected = sorted(range(len(pieces)), key=lambda at: (texts[at].encode(), behind[at]))
    assert Texts.of(texts).order(np.array(behind, bool)).tolist() == expected


def test_records_are_length_text_and_row() -> None:
    pieces = ["", "a", "▁x", "😀" * 40]
    order = np.array([3, 0, 2, 1])
    expected = b"".join(binary.string(pieces[at]) + binary.u32(7 * at) for at in order)
    rows = (7 * order).astype("<u4").view(np.uint8).reshape(-1, 4)
    assert Texts.of(pieces).records(order, rows) == expected


def test_a_piece_that_is_too_long_is_refused() -> None:
    assert Texts.of(["é" * 32_767]).lengths.tolist() == [65_534]
    with pytest.raises(StageFailed, match=r"up to 65,536 bytes"):
        Texts.of(["a", "é" * 32_768])
