"""How a cross-encoder reads a query and a document: one sequence of ids, with special tokens before, between and after.

The tokenizer's post-processor says it (tokenizer.json: TemplateProcessing's `pair`, BertProcessing, RobertaProcessing).
Each text is tokenised alone, so two lists of ids are all that is needed to make the sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.tokenizer.definition import Component, Definition, walk

_FIRST, _SECOND = "A", "B"
# (what stands there: ids, or the name of a text; its token type)
_Item = tuple[list[int] | str, int]


@dataclass(frozen=True)
class Pair:
    """before, between, after: ids around the two texts. typed: all behind `between` has token type 1, the rest 0."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    typed: bool

    def join(self, query: Sequence[int], document: Sequence[int], limit: int) -> list[int]:
        """The sequence's ids, at most `limit` (0: any number), cut as the tokenizers library cuts "longest_first".

        Raises UserError for a limit that leaves no room for text.
        """
        first, second = len(query), len(document)
        room = limit - len(self.before) - len(self.between) - len(self.after)
        if limit and room < 1:
            raise UserError(f"a limit of {limit} tokens leaves no room for texts between the special ones")
        if limit and first + second > room:
            first, second = shares(first, second, room)
        return [*self.before, *query[:first], *self.between, *document[:second], *self.after]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many of two texts' ids stay in `room`, which both together exceed: the longer one is cut down to the shorter,
    then both to halves (tokenizers 0.23, `longest_first`)."""
    short, long = sorted((first, second))
    if short > room // 2:
        short, long = room // 2, room - room // 2
    else:
        long = room - short
    return (short, long) if first <= second else (long, short)


def pair_of(definition: Definition, names: Sequence[str] | None) -> Pair:
    """names: tokenizer_config.json's `model_input_names`, by which there are token types or not; None: it has none.

    Raises UserError for a tokenizer that does not say how two texts become one sequence, or says it otherwise.
    """
    templates = [found for part in walk(definition.post_processor) if (found := _items(part))]
    if len(templates) != 1:
        raise UserError("the model's tokenizer does not say how a query and a document become one sequence")
    items = templates[0]
    texts = [what for what, _ in items if isinstance(what, str)]
    if texts != [_FIRST, _SECOND]:
        raise UserError(f"the model's tokenizer puts the texts {', '.join(texts)} together, not a query and a document")
    places = [index for index, (what, _) in enumerate(items) if isinstance(what, str)]
    sides = items[: places[0]], items[places[0] + 1 : places[1]], items[places[1] + 1 :]
    before, between, after = (tuple(id for what, _ in side for id in what if isinstance(id, int)) for side in sides)
    types = [kind for _, kind in items]
    typed = types == [0] * places[1] + [1] * (len(items) - places[1])
    if any(types) and not (typed and between):
        raise UserError("the model's tokenizer gives token types other than 0 for the query and 1 for the document")
    return Pair(before, between, after, typed and (names is None or "token_type_ids" in names))


def _items(part: Component) -> list[_Item]:
    """The pair's template; empty for a component that adds no tokens."""
    if part["type"] == "TemplateProcessing":
        return [_item(item, part["special_tokens"]) for item in part["pair"]]
    if part["type"] not in ("BertProcessing", "RobertaProcessing"):
        return []
    begin, end = [int(part["cls"][1])], [int(part["sep"][1])]
    if part["type"] == "BertProcessing":
        return [(begin, 0), (_FIRST, 0), (end, 0), (_SECOND, 1), (end, 1)]
    return [(begin, 0), (_FIRST, 0), (end, 0), (end, 0), (_SECOND, 0), (end, 0)]


def _item(item: Component, tokens: Mapping[str, Any]) -> _Item:
    if "Sequence" in item:
        return str(item["Sequence"]["id"]), int(item["Sequence"]["type_id"])
    token = item["SpecialToken"]
    return [int(one) for one in tokens[token["id"]]["ids"]], int(token["type_id"])
