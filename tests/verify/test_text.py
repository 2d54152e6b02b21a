"""The evaluation text shares nothing with the calibration text, and both are what this Python carries."""

from __future__ import annotations

import subprocess
import sys
from pydoc_data.topics import topics

from pipeline.verify.text import (
    MULTILINGUAL,
    PARAGRAPH,
    calibration_text,
    conversations,
    evaluation_text,
    text_digest,
)


def paragraphs(text: str) -> set[str]:
    return {" ".join(paragraph.split()) for paragraph in text.split(PARAGRAPH) if paragraph.strip()}


def test_no_paragraph_is_in_both_parts() -> None:
    assert not paragraphs(calibration_text()) & paragraphs(evaluation_text())


def test_both_parts_come_from_pydocs_topics_and_nothing_is_lost() -> None:
    everything = set().union(*(paragraphs(topic) for topic in topics.values()))
    assert paragraphs(calibration_text()) | paragraphs(evaluation_text()) == everything


def test_parts_are_long_enough_for_the_full_verification_and_for_calibration() -> None:
    assert len(calibration_text()) > 16 * 512 * 6
    assert len(evaluation_text()) > 8 * 512 * 6


def test_text_is_the_same_in_another_process() -> None:
    program = (
        "from pipeline.verify.text import *; print(text_digest(calibration_text()), text_digest(evaluation_text()))"
    )
    out = subprocess.run(
        [sys.executable, "-R", "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert out == [text_digest(calibration_text()), text_digest(evaluation_text())]


def test_fixed_texts_cover_scripts_and_no_text_is_there_twice() -> None:
    everything = "".join(MULTILINGUAL)
    for low, high in (("一", "鿿"), ("぀", "ヿ"), ("가", "힯"), ("؀", "ۿ"), ("Ѐ", "ӿ"), ("ऀ", "ॿ"), ("Ͱ", "Ͽ")):
        assert any(low <= letter <= high for letter in everything), (low, high)
    assert any(letter > "\uffff" for letter in everything)
    assert len(set(MULTILINGUAL)) == len(MULTILINGUAL)


def test_conversations_end_with_the_users_question() -> None:
    for messages in conversations("Why?"):
        assert messages[-1] == {"role": "user", "content": "Why?"}
    assert len({tuple(message["role"] for message in messages) for messages in conversations("Why?")}) == 3
