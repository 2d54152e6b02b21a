"""The texts that calibration and verification look at. None needs the network: prose is what every Python carries.

`pydoc_data.topics` (the language reference behind `help()`, about 460 kB of English and code) is split by topic.
Several topics repeat whole passages of others, so a paragraph that calibration may see is removed from the evaluation
part: a quantiser is never judged by sentences that it was tuned on.
"""

from __future__ import annotations

import hashlib
from functools import cache

EVALUATION_EVERY = 4  # one topic in four is kept for evaluation
PARAGRAPH = "\n\n"

# Scripts with and without spaces, composed and decomposed accents, digits, code, and the blanks that split tokenizers.
MULTILINGUAL = (
    "The quick brown fox jumps over 13 lazy dogs; it's 2,048 miles (3.3e3 km) away!",
    "Der Straßenverkäufer grüßt: „Äpfel, Öl und Übergrößen – 12,50 €“.",
    "L'été dernier, où êtes-vous allés ? À Besançon, naïvement.",
    "¿Dónde está el niño? Mañana cumplirá quince años.",
    "Быстрая лиса перепрыгивает через ленивую собаку в 1984 году.",
    "你好，世界！今天天气怎么样？我们去公园散步吧。",
    "東京は夜の七時です。カタカナとひらがな、漢字。",
    "한국어 문장도 올바르게 나뉘어야 합니다.",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "Γειά σου Κόσμε, τι κάνεις;",
    "emoji: 😀 🎉 👍🏽 — and symbols ∑ ∂ √ ≈ ≠ ™",
    "def f(x: int) -> str:\n    return f\"{x!r:>8}\"  # tab\there\n\n\nif __name__ == '__main__':\n\tprint(f(42))",
    "  leading and trailing blanks   ",
    "a  b   c    d\n\n\n\ne",
)


def conversations(question: str) -> tuple[tuple[dict[str, str], ...], ...]:
    """Chats whose rendering through the chat template is compared: one question, a system prompt, several turns."""
    user = {"role": "user", "content": question}
    return (
        (user,),
        ({"role": "system", "content": "You answer briefly."}, user),
        (
            {"role": "user", "content": "你好 — hello!"},
            {"role": "assistant", "content": "Hello. How can I help?"},
            user,
        ),
    )


@cache
def calibration_text() -> str:
    """Prose that calibrated quantisers may look at."""
    return PARAGRAPH.join(_paragraphs(for_evaluation=False))


@cache
def evaluation_text() -> str:
    """Prose that KL divergence and agreement are measured on; shares no paragraph with `calibration_text`."""
    seen = set(_paragraphs(for_evaluation=False))
    return PARAGRAPH.join(paragraph for paragraph in _paragraphs(for_evaluation=True) if paragraph not in seen)


def text_digest(text: str) -> str:
    """sha256 of the text in UTF-8, hexadecimal: pydoc's topics change with Python's version, so results name it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _paragraphs(*, for_evaluation: bool) -> list[str]:
    from pydoc_data.topics import topics

    chosen = (
        topics[name] for number, name in enumerate(sorted(topics)) if (number % EVALUATION_EVERY == 0) == for_evaluation
    )
    return [paragraph.strip("\n") for topic in chosen for paragraph in topic.split(PARAGRAPH) if paragraph.strip()]
