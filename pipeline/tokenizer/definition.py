"""A tokenizer as the Hugging Face `tokenizers` library describes it: the parsed tokenizer.json, checked and typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import StageFailed

Component = Mapping[str, Any]


def unsupported(feature: str, next_step: str = "") -> StageFailed:
    """The error for what a tokenizer needs and the engine's format cannot say."""
    return StageFailed(f"tokenizer: the engine's tokenizer has no {feature}", next_step)


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before the model sees it."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    @classmethod
    def of(cls, entry: Component) -> AddedToken:
        """From an entry of tokenizer.json's `added_tokens`."""
        known = {name: entry[name] for name in cls.__dataclass_fields__ if name in entry}
        return cls(**known)


@dataclass(frozen=True)
class Definition:
    """normalizer, pre_tokenizer, post_processor, decoder: components as in tokenizer.json, or None.

    aliases: further spellings of ids, that merging may end in and nothing decodes to.
    """

    model: Component
    normalizer: Component | None
    pre_tokenizer: Component | None
    post_processor: Component | None
    decoder: Component | None
    added_tokens: tuple[AddedToken, ...]
    aliases: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Definition:
        """From a parsed tokenizer.json. Raises StageFailed if it has no model."""
        if not isinstance(document.get("model"), Mapping):
            raise StageFailed("tokenizer.json has no model", "check that the file is a Hugging Face tokenizer")
        added = sorted(map(AddedToken.of, document.get("added_tokens") or ()), key=lambda token: token.id)
        return cls(
            model=document["model"],
            normalizer=document.get("normalizer"),
            pre_tokenizer=document.get("pre_tokenizer"),
            post_processor=document.get("post_processor"),
            decoder=document.get("decoder"),
            added_tokens=tuple(added),
        )

    @property
    def kind(self) -> str:
        """The model's type: BPE, Unigram or WordPiece (old files leave it out: told by their fields)."""
        declared = self.model.get("type")
        if declared:
            return str(declared)
        if isinstance(self.model.get("vocab"), list):
            return "Unigram"
        return "BPE" if "merges" in self.model else "WordPiece"

    @property
    def byte_level(self) -> bool:
        """True if the model's pieces are in GPT-2's byte alphabet."""
        parts = [*walk(self.pre_tokenizer), *walk(self.normalizer), *walk(self.decoder)]
        return any(part["type"] == "ByteLevel" for part in parts)

    def vocabulary(self) -> dict[str, int]:
        """Piece → id of the model proper, without added tokens."""
        vocab = self.model["vocab"]
        if isinstance(vocab, dict):
            return vocab  # as it is: a copy of Gemma's takes as long as half the file
        return {str(piece): index for index, (piece, _) in enumerate(vocab)}


def walk(component: Component | None) -> Iterator[Component]:
    """`component` and, for a Sequence, its members in order, depth first."""
    if component is None:
        return
    children = next(
        (component[key] for key in ("normalizers", "pretokenizers", "decoders", "processors") if key in component), None
    )
    if component.get("type") != "Sequence" or children is None:
        yield component
        return
    for child in children:
        yield from walk(child)
