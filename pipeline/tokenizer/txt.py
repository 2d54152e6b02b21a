"""tokenizer.txt: the tokenizer files of engines before 3.5.0 (newer ones still read them). docs/tokenizers.md has both.

Types: 0 SentencePiece BPE, 2 WordPiece, 3 byte-level BPE with one fixed word regex. Type 1 (greedy longest match, named
after tiktoken) is no BPE, and never right for a BPE model, so it is not written. Unigram has no type.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from pipeline.tokenizer.definition import AddedToken, Definition, unsupported, walk
from pipeline.tokenizer.mtok import MAGIC, Extras
from pipeline.tokenizer.vocabulary import pieces_by_id

SENTENCEPIECE, BERT, HUGGINGFACE = 0, 2, 3
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "▁"
INSTEAD = "use target.tokenizer_format=mtok"


def encode_txt(definition: Definition, extras: Extras) -> bytes:
    """The whole file. Raises StageFailed naming what none of the types can say."""
    if definition.kind == "BPE" and definition.byte_level:
        return _header(HUGGINGFACE, definition.added_tokens, extras) + _huggingface(definition)
    if definition.kind == "BPE":
        _require_llama_spaces(definition)
        return _header(SENTENCEPIECE, definition.added_tokens, extras) + _sentencepiece(definition)
    if definition.kind == "WordPiece":
        return _header(BERT, definition.added_tokens, extras) + _bert(definition)
    raise unsupported(f"{definition.kind} model in tokenizer.txt", INSTEAD)


def _header(kind: int, added: Sequence[AddedToken], extras: Extras) -> bytes:
    """Here the special ids are what the text is searched for, in order: the longest first, as Hugging Face matches."""
    special = [token.id for token in sorted(added, key=lambda token: (-len(token.content.encode()), token.id))]
    ids = " ".join(map(str, [*special, *extras.stop, *extras.prefix]))
    return f"{MAGIC} {kind}\n{len(special)} {len(extras.stop)} {len(extras.prefix)}\n{ids}\n".encode()


def _huggingface(definition: Definition) -> bytes:
    """`<pieces> <merges>`, a piece a line, a merge `left right` a line, all in the byte alphabet."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in definition.model.get("merges") or ()]
    lines = [f"{len(pieces_by_id(definition))} {len(merges)}", *pieces_by_id(definition), *merges]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _require_llama_spaces(definition: Definition) -> None:
    """The engine turns " " into "▁" and puts one in front of every segment, as Llama 2's normalizer does."""
    parts = [(part["type"], part.get("prepend") or part.get("content")) for part in walk(definition.normalizer)]
    if parts != [("Prepend", SPACE), ("Replace", SPACE)]:
        raise unsupported("SentencePiece text without a leading blank in tokenizer.txt", INSTEAD)


def _sentencepiece(definition: Definition) -> bytes:
    """`<pieces>`, then `base64(piece) score type` a line. A piece's score is its merge's rank, negated."""
    added = {token.id: token for token in definition.added_tokens}
    unknown = str(definition.model.get("unk_token"))
    scores = _scores(definition)
    lines = []
    for index, piece in enumerate(pieces_by_id(definition)):
        kind = (
            UNKNOWN
            if piece == unknown
            else BYTE
            if _is_byte(piece)
            else NORMAL
            if index not in added
            else CONTROL
            if added[index].special
            else USER_DEFINED
        )
        lines.append(f"{base64.b64encode(piece.encode()).decode()} {scores.get(piece, 0.0)} {kind}")
    return ("\n".join([str(len(lines)), *lines]) + "\n").encode()


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _scores(definition: Definition) -> dict[str, float]:
    scores: dict[str, float] = {}
    for rank, merge in enumerate(definition.model.get("merges") or ()):
        scores.setdefault(merge.replace(" ", "") if isinstance(merge, str) else "".join(merge), -float(rank))
    return scores


def _bert(definition: Definition) -> bytes:
    """`<pieces>`, then base64(piece) a line."""
    pieces = pieces_by_id(definition)
    lines = [str(len(pieces)), *(base64.b64encode(piece.encode()).decode() for piece in pieces)]
    return ("\n".join(lines) + "\n").encode()
