"""Engine against Hugging Face: token ids, decoded text, rendered chat templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import StageFailed
from pipeline.tokenizer.build import Facts, read_facts
from pipeline.tokenizer.engine import EngineTokenizer, Render
from pipeline.tokenizer.parity.conversations import CONVERSATIONS, Conversation
from pipeline.tokenizer.parity.corpus import corpus
from pipeline.tokenizer.parity.minimal import shortest
from pipeline.tokenizer.parity.reference import Reference

GATE_TEXTS = 1_500
WITHOUT_PROMPT = "{% set add_generation_prompt = false %}"


@dataclass(frozen=True)
class Difference:
    """The smallest example found. what: "encode", "decode" or "template"."""

    what: str
    example: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.what} of {self.example}: Hugging Face {self.expected}, engine {self.actual}"


@dataclass(frozen=True)
class Parity:
    """How many comparisons were made, how many differ, and the first minimal difference of each kind.

    explained: texts whose ids differ as a limit of the engine says they must (words that it always merges).
    refused: conversations that the model's own template refuses (raise_exception): nothing to compare.
    """

    texts: int
    encode_differences: int
    explained: int
    decode_differences: int
    conversations: int
    template_differences: int
    refused: int
    examples: tuple[Difference, ...] = ()

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return not (self.encode_differences or self.explained or self.decode_differences or self.template_differences)

    def require(self, accept_limits: bool = False) -> None:
        """Raises StageFailed with the first minimal example unless everything is equal.

        accept_limits: differences that a limit of the engine explains (they are in tokenizer.json) are let pass.
        """
        if self.equal or (accept_limits and replace(self, explained=0).equal):
            return
        hint = "set target.accept_tokenizer_limits=true to ship it, with the limit on record"
        only_limits = replace(self, explained=0).equal
        raise StageFailed(
            f"the engine's tokenizer is not Hugging Face's: {self.examples[0]}", hint if only_limits else ""
        )


def check_parity(
    product: Path,
    checkpoint: Path,
    count: int = GATE_TEXTS,
    texts: Sequence[str] | None = None,
    conversations: Sequence[Conversation] = CONVERSATIONS,
) -> Parity:
    """Compares `product` (tokenizer.mtok or .txt, and tokenizer.json) with `checkpoint`, the Hugging Face folder.

    texts: instead of the first `count` texts of the corpus. Raises StageFailed when the engine crashes or hangs.
    """
    facts = read_facts(product)
    engine = EngineTokenizer(product / facts.file)
    reference = Reference.open(checkpoint)
    samples = list(texts) if texts is not None else corpus(count)
    encode, explained, examples = _compare_ids(engine, reference, facts, samples)
    decode, decode_examples = _compare_text(engine, reference, samples)
    template, refused, template_examples = _compare_templates(engine, reference, facts, conversations)
    return Parity(
        len(samples),
        encode,
        explained,
        decode,
        len(conversations),
        template,
        refused,
        (*examples, *decode_examples, *template_examples),
    )


def _compare_ids(
    engine: EngineTokenizer, reference: Reference, facts: Facts, texts: list[str]
) -> tuple[int, int, list[Difference]]:
    """(unexplained, explained, examples)."""
    expected, actual = reference.encode(texts), _without_prefix(engine.encode(texts), facts)
    wrong = [(text, answer) for text, left, answer in zip(texts, expected, actual, strict=True) if left != answer]
    merged = reference.encode_merging([text for text, _ in wrong])
    unexplained = [text for (text, answer), ids in zip(wrong, merged, strict=True) if ids != answer]
    if not wrong:
        return 0, 0, []
    example = _minimal(engine, reference, facts, min(unexplained or [text for text, _ in wrong], key=len))
    explained = len(wrong) - len(unexplained)
    return len(unexplained), explained, [example]


def _minimal(engine: EngineTokenizer, reference: Reference, facts: Facts, text: str) -> Difference:
    def differs(candidates: list[str]) -> list[bool]:
        answers = _without_prefix(engine.encode(candidates), facts)
        return [left != right for left, right in zip(reference.encode(candidates), answers, strict=True)]

    example = shortest(text, differs)
    answer = _without_prefix(engine.encode([example]), facts)[0]
    return Difference("encode", ascii(example), str(reference.encode([example])[0]), str(answer))


def _without_prefix(answers: list[list[int]], facts: Facts) -> list[list[int]]:
    return [ids[len(facts.prefix) :] for ids in answers]


def _compare_text(engine: EngineTokenizer, reference: Reference, texts: list[str]) -> tuple[int, list[Difference]]:
    """The engine streams token by token: a sentence's first blank, which some decoders strip, stays."""
    sequences = reference.encode(texts)
    expected = reference.decode(sequences)
    actual = [answer.decode("utf-8", "replace") for answer in engine.decode(sequences)]
    wrong = [
        (ids, left, right)
        for ids, left, right in zip(sequences, expected, actual, strict=True)
        if right not in (left, f" {left}")
    ]
    wrong.sort(key=lambda case: len(case[0]))
    return len(wrong), [Difference("decode", str(ids), ascii(left), ascii(right)) for ids, left, right in wrong[:1]]


def _compare_templates(
    engine: EngineTokenizer, reference: Reference, facts: Facts, conversations: Sequence[Conversation]
) -> tuple[int, int, list[Difference]]:
    if not facts.chat_template or facts.fallbacks:
        return 0, 0, []
    expected = [reference.render(conversation) for conversation in conversations]
    asked = [
        (conversation, text) for conversation, text in zip(conversations, expected, strict=True) if text is not None
    ]
    calls = [
        Render(conversation.messages, conversation.variables, _template(facts, conversation))
        for conversation, _ in asked
    ]
    actual = engine.render(calls, facts.eos_token)
    wrong = [
        (conversation.name, text, answer)
        for (conversation, text), answer in zip(asked, actual, strict=True)
        if text != answer
    ]
    wrong.sort(key=lambda case: len(case[1]))
    examples = [Difference("template", name, *_around_difference(text, answer)) for name, text, answer in wrong[:1]]
    return len(wrong), len(expected) - len(asked), examples


def _template(facts: Facts, conversation: Conversation) -> str:
    return facts.chat_template if conversation.add_generation_prompt else WITHOUT_PROMPT + facts.chat_template


def _around_difference(left: str, right: str) -> tuple[str, str]:
    pairs = enumerate(zip(left, right, strict=False))
    first = next((index for index, (one, other) in pairs if one != other), min(len(left), len(right)))
    window = slice(max(0, first - 20), first + 40)
    return repr(left[window]), repr(right[window])
