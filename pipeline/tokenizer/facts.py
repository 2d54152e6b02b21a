"""tokenizer.json of a product: what the tokenizer stage tells the other stages, and people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.errors import StageFailed


@dataclass(frozen=True)
class Facts:
    """The tokenizer as the product has it.

    kind: BPE, Unigram or WordPiece. file: the tokenizer file's name. vocab_size: highest id + 1. stop_sources: stop id
    (as text, for JSON) → the files that name it. prefix: ids put before every encoded text. chat_template: exactly as
    the engine gets it. rewrites: why it is not the model's own text. fallbacks: what was replaced on request.
    limits: texts on which the engine is known to differ from Hugging Face.
    """

    kind: str
    byte_level: bool
    file: str
    vocab_size: int
    bos_token: str
    eos_token: str
    stop_ids: list[int]
    stop_sources: dict[str, list[str]]
    prefix: list[int]
    special_ids: dict[str, int]
    chat_template: str
    rewrites: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def json(self) -> str:
        """Stable text of the facts."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def read_facts(folder: Path) -> Facts:
    """The facts of a product (in its manifest.json) or of the stage's output (tokenizer.json).

    Raises StageFailed if they are missing or of another version.
    """
    manifest = folder / "manifest.json"
    path = manifest if manifest.is_file() else folder / "tokenizer.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Facts(**(content["tokenizer"] if path == manifest else content))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StageFailed(
            f"{path} does not hold the facts of a tokenizer: {error}", "export the model again"
        ) from error
