"""Engine against Hugging Face: token ids, decoded text, rendered chat templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.errors import StageFailed
from pipeline.tokenizer.build import Facts, read_facts
from pipeline.tokenizer.engine import EngineTokenizer, Render
from pipeline.tokenizer.parity.conversations import CONVERSATIONS, Conversation
from pipeline.tokenizer.parity.corpus import corpus
from pipeline.tokenizer.parity.limited import ending_bytes
from pipeline.tokenizer.parity.minimal import shortest
from pipeline.tokenizer.parity.reference import Reference

GATE_TEXTS, FULL_TEXTS = 1_500, 20_000  # verify=fast, verify=full and the documentation's table
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

    explained: texts whose ids differ as a known limit of the file's format says they must, for instance words that are
    always merged; decode_explained: the same of their text. refused: conversations that the model's own template
    refuses (raise_exception): nothing to compare.
    """

    texts: int
    encode_differences: int
    explained: int
    decode_differences: int
    conversations: int
    template_differences: int
    refused: int
    examples: tuple[Difference, ...] = ()
    decode_explained: int = 0

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return not (self.differences or self.explained or self.decode_explained)

    @property
    def differences(self) -> int:
        """How many differ for no reason that is known."""
        return self.encode_differences + self.decode_differences + self.template_differences

    def require(self, accept_limits: bool = False) -> None:
        """Raises StageFailed with the first minimal example unless everything is equal.

        accept_limits: differences that a limit of the format explains (they are in tokenizer.json) are let pass.
        """
        if self.equal or (accept_limits and not self.differences):
            return
        hint = "set target.accept_tokenizer_limits=true to ship it, with the limit on record"
        raise StageFailed(
            f"the engine's tokenizer is not Hugging Face's: {self.examples[0]}", "" if self.differences else hint
        )


def check_parity(
    product: Path,
    checkpoint: Path,
    count: int = GATE_TEXTS,
    texts: Sequence[str] | None = None,
    conversations: Sequence[Conversation] = CONVERSATIONS,
    decodes: bool = True,
) -> Parity:
    """Compares `product` (tokenizer.mtok or .txt, and tokenizer.json) with `checkpoint`, the Hugging Face folder.

    texts: instead of the first `count` texts of the corpus. decodes: False for a model that never writes a token.
    Raises StageFailed when the engine crashes or hangs.
    """
    facts = read_facts(product)
    engine = EngineTokenizer(product / facts.file)
    reference = Reference.open(checkpoint)
    samples = list(texts) if texts is not None else corpus(count)
    samples, ending = _without_ending(reference, facts, samples)
    sequences = reference.encode(samples)
    asked = _prompts(reference, facts, conversations)
    calls = [Render(one.messages, one.variables, _template(facts, one)) for one, _ in asked]
    answers = engine.answer(samples, sequences if decodes else (), calls, facts.eos_token)
    encode, explained, examples = _compare_ids(engine, reference, facts, samples, sequences, answers.ids)
    decode, streamed, decode_examples = _compare_text(reference, facts, sequences if decodes else (), answers.texts)
    template, template_examples = _compare_prompts(asked, answers.prompts)
    compared = _compares_prompts(facts)
    return Parity(
        texts=len(samples) + ending,
        encode_differences=encode,
        explained=explained + ending,
        decode_differences=decode,
        decode_explained=streamed,
        conversations=len(conversations) if compared else 0,
        template_differences=template,
        refused=len(conversations) - len(asked) if compared else 0,
        examples=(*examples, *decode_examples, *template_examples),
    )


def _without_ending(reference: Reference, facts: Facts, texts: Sequence[str]) -> tuple[list[str], int]:
    """Texts that can be asked, and how many are known to end the engine's process, which nobody should try."""
    ending = ending_bytes(reference.tokenizer, facts)
    kept = [text for text in texts if ending.isdisjoint(text.encode())]
    return kept, len(texts) - len(kept)


def _compare_ids(
    engine: EngineTokenizer,
    reference: Reference,
    facts: Facts,
    texts: Sequence[str],
    expected: Sequence[list[int]],
    answers: Sequence[list[int]],
) -> tuple[int, int, list[Difference]]:
    """(unexplained, explained, examples)."""
    actual = _without_prefix(answers, facts)
    wrong = [(text, answer) for text, left, answer in zip(texts, expected, actual, strict=True) if left != answer]
    if not wrong:
        return 0, 0, []
    limited = reference.encode_limited([text for text, _ in wrong], facts)
    unexplained = [text for (text, answer), ids in zip(wrong, limited, strict=True) if ids != answer]
    reference_ids = partial(reference.encode_limited, facts=facts) if unexplained else reference.encode
    text = min(unexplained or [text for text, _ in wrong], key=len)
    return len(unexplained), len(wrong) - len(unexplained), [_minimal(engine, reference, facts, reference_ids, text)]


def _minimal(
    engine: EngineTokenizer,
    reference: Reference,
    facts: Facts,
    ids_of: Callable[[list[str]], list[list[int]]],
    text: str,
) -> Difference:
    """The shortest part of `text` on which the engine differs from `ids_of`, beside Hugging Face's answer."""

    def differs(candidates: list[str]) -> list[bool]:
        answers = _without_prefix(engine.encode(candidates), facts)
        return [left != right for left, right in zip(ids_of(candidates), answers, strict=True)]

    example = shortest(text, differs)
    answer = _without_prefix(engine.encode([example]), facts)[0]
    return Difference("encode", ascii(example), str(reference.encode([example])[0]), str(answer))


def _without_prefix(answers: Sequence[list[int]], facts: Facts) -> list[list[int]]:
    return [ids[len(facts.prefix) :] for ids in answers]


def _compare_text(
    reference: Reference, facts: Facts, sequences: Sequence[list[int]], streamed: Sequence[bytes]
) -> tuple[int, int, list[Difference]]:
    """(unexplained, explained, examples). A sentence's first blank, which some decoders strip, stays in the stream."""
    actual = [answer.decode("utf-8", "replace") for answer in streamed]
    wrong = [
        (ids, left, right)
        for ids, left, right in zip(sequences, reference.decode(sequences), actual, strict=True)
        if right not in (left, f" {left}")
    ]
    wrong.sort(key=lambda case: len(case[0]))
    limited = reference.stream_limited([ids for ids, _, _ in wrong], facts)
    unexplained = [case for case, text in zip(wrong, limited, strict=True) if text != case[2]]
    examples = [
        Difference("decode", str(ids), ascii(left), ascii(right)) for ids, left, right in (unexplained or wrong)[:1]
    ]
    return len(unexplained), len(wrong) - len(unexplained), examples


def _compares_prompts(facts: Facts) -> bool:
    """Not without a template, and not where a plain one was asked for instead of the model's."""
    return bool(facts.chat_template) and not facts.fallbacks


def _prompts(
    reference: Reference, facts: Facts, conversations: Sequence[Conversation]
) -> list[tuple[Conversation, str]]:
    """What Hugging Face renders, without what the template refuses; those with the file's own template first."""
    if not _compares_prompts(facts):
        return []
    ordered = sorted(conversations, key=lambda conversation: not conversation.add_generation_prompt)
    rendered = [(conversation, reference.render(conversation)) for conversation in ordered]
    return [(conversation, text) for conversation, text in rendered if text is not None]


def _compare_prompts(asked: Sequence[tuple[Conversation, str]], answers: Sequence[str]) -> tuple[int, list[Difference]]:
    wrong = [
        (conversation.name, text, answer)
        for (conversation, text), answer in zip(asked, answers, strict=True)
        if text != answer
    ]
    wrong.sort(key=lambda case: len(case[1]))
    return len(wrong), [
        Difference("template", name, *_around_difference(text, answer)) for name, text, answer in wrong[:1]
    ]


def _template(facts: Facts, conversation: Conversation) -> str | None:
    """None: the one in tokenizer.mtok, which is what a product renders. The engine always asks for a prompt."""
    if not conversation.add_generation_prompt:
        return WITHOUT_PROMPT + facts.chat_template
    return None if facts.file == "tokenizer.mtok" else facts.chat_template


def _around_difference(left: str, right: str) -> tuple[str, str]:
    pairs = enumerate(zip(left, right, strict=False))
    first = next((index for index, (one, other) in pairs if one != other), min(len(left), len(right)))
    window = slice(max(0, first - 20), first + 40)
    return repr(left[window]), repr(right[window])
