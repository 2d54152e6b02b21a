"""How a pair becomes one sequence, against the tokenizers library's own encoding and cutting."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline.errors import UserError
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.pair import Pair, pair_of

WORDS = {word: index for index, word in enumerate(("[UNK]", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz"))}
TOKENS = [("<s>", 1), ("</s>", 2)]
TEMPLATE = {"single": "<s> $A </s>", "special_tokens": TOKENS}
PROCESSORS: dict[str, Any] = {
    "bert": processors.BertProcessing(("</s>", 2), ("<s>", 1)),
    "roberta": processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=False),
    "template": processors.TemplateProcessing(pair="<s> $A </s> </s> $B </s>", **TEMPLATE),
    "typed": processors.TemplateProcessing(pair="<s> $A </s> $B:1 </s>:1", **TEMPLATE),
    "sequence": processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing(pair="<s> $A </s> $B", **TEMPLATE)]
    ),
}


def made(processor: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processor
    return tokenizer


def definition(tokenizer: Tokenizer) -> Definition:
    return Definition.of(json.loads(tokenizer.to_str()))


@pytest.mark.parametrize("name", PROCESSORS)
def test_pairs_are_put_together_and_cut_as_the_library_does(name: str) -> None:
    tokenizer = made(PROCESSORS[name])
    pair = pair_of(definition(tokenizer), None)
    whole = tokenizer.encode("a b", "c d")
    assert pair.typed == any(whole.type_ids)
    for limit in (6, 7, 8, 11):
        tokenizer.enable_truncation(limit, strategy="longest_first")
        for first in range(9):
            for second in range(9):
                query, document = " ".join("abcdefghi"[:first]), " ".join("nopqrstuv"[:second])
                ids = [WORDS[letter] for letter in query.split()], [WORDS[letter] for letter in document.split()]
                assert pair.join(*ids, limit) == tokenizer.encode(query, document).ids, (limit, first, second)


def test_token_types_begin_behind_the_separator() -> None:
    tokenizer = made(PROCESSORS["typed"])
    pair = pair_of(definition(tokenizer), None)
    types = tokenizer.encode("a b c", "d e").type_ids
    assert types == [0] * (len(pair.before) + 3 + len(pair.between)) + [1] * (2 + len(pair.after))
    assert not pair_of(definition(tokenizer), ["input_ids", "attention_mask"]).typed


def test_no_limit_and_no_room() -> None:
    pair = Pair((1,), (2, 2), (2,), typed=False)
    assert pair.join([5] * 40, [6] * 50, 0) == [1, *[5] * 40, 2, 2, *[6] * 50, 2]
    with pytest.raises(UserError, match="no room"):
        pair.join([5], [6], 4)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (None, "does not say"),
        (processors.ByteLevel(), "does not say"),
        (processors.TemplateProcessing(**TEMPLATE, pair="<s> $B </s> $A"), "B, A"),
        (processors.TemplateProcessing(**TEMPLATE, pair="<s>:1 $A:1 </s> $B"), "token types"),
        (processors.TemplateProcessing(**TEMPLATE, pair="<s> $A $B:1"), "token types"),
    ],
)
def test_what_is_no_pair_is_refused(processor: Any, reason: str) -> None:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    if processor is not None:
        tokenizer.post_processor = processor
    with pytest.raises(UserError, match=reason):
        pair_of(definition(tokenizer), None)
