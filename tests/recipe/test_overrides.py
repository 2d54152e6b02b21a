"""Overrides before Hydra: keys checked, text kept as text. Hydra's own parser is the judge of the quoting."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.recipe.overrides import elements, is_text, prepare, quote, split


def parsed(override: str) -> object:
    """The value that Hydra's parser reads."""
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    "text",
    [
        "123e4",
        "true",
        "null",
        "0123",
        "1_000",
        "",
        "a b",
        "it's",
        'say "x"',
        "a=b",
        "{x}",
        "[1]",
        "(",
        "ünï 中文",
        "C:\\dir\\",
        "\\'",
        "end\\",
        "a\\\\'b",
        "~",
        "$x",
        "#",
        "a:b",
        "-",
    ],
)
def test_quoted_text_is_read_back_by_hydra_as_written(text: str) -> None:
    assert parsed(f"x={quote(text)}") == text


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\n\r\x00"), max_size=20))
def test_any_text_survives_quoting(text: str) -> None:
    if "${" not in text:
        assert parsed(f"x={quote(text)}") == text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model=a,b", "model=a,b"),
        ("quant.bits=4", "++quant.bits=4"),
        ("+quant.bits=4", "++quant.bits=4"),
        ("++quant.bits=4", "++quant.bits=4"),
        ("quant.bits=4,8", "++quant.bits=4,8"),
        ("model.revision=123e4", "++model.revision='123e4'"),
        ("model.revision=123e4,main", "++model.revision='123e4','main'"),
        ("model.revision=choice(123e4,main)", "++model.revision=choice('123e4','main')"),
        ("model.revision='123e4'", "++model.revision='123e4'"),
        ("name=", "++name="),
        ("target.runtime.system_prompt=be brief", "++target.runtime.system_prompt='be brief'"),
        ("target.runtime.top_k=20", "++target.runtime.top_k=20"),
        ("verify.thresholds.4.max_kld=0.5", "++verify.thresholds.4.max_kld=0.5"),
        ("quant.rules=[{pattern: lm_head, bits: 8}]", "++quant.rules=[{pattern: lm_head, bits: 8}]"),
    ],
)
def test_overrides_are_rewritten_for_hydra(given: str, expected: str) -> None:
    assert prepare([given]) == [expected]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=x", "unknown key 'modle'. Did you mean 'model'?"),
        ("quant.bit=4", "unknown key 'quant.bit'. Did you mean 'quant.bits'?"),
        ("bits=4", "unknown key 'bits'. Did you mean 'quant.bits'?"),
        ("quant.bits.x=4", "unknown key 'quant.bits.x'."),
        ("hydra.verbose=true", "unknown key 'hydra.verbose'."),
        ("model@other=x", "unknown key 'model@other'."),
        ("~quant.block", "'~quant.block': a key of a recipe cannot be deleted"),
        ("~quant.block=64", "'~quant.block=64': a key of a recipe cannot be deleted"),
        ("quant.bits", "'quant.bits' is not of the form key=value"),
        ("=4", "'=4' is not of the form key=value"),
        ("", "'' is not of the form key=value"),
    ],
)
def test_a_key_that_no_recipe_has_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare([override])
    assert error.value.message.startswith(message)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ('"a,b"', ['"a,b"']),
        ("a", ["a"]),
        ("'it\\'s, x'", ["'it\\'s, x'"]),
    ],
)
def test_values_are_cut_at_commas_outside_quotes(value: str, parts: list[str]) -> None:
    assert elements(value) == parts


def test_split_drops_the_prefix_and_keeps_later_equals_signs() -> None:
    assert split("++model.repo=a=b") == ("model.repo", "a=b")


@pytest.mark.parametrize(
    ("key", "text"), [("model.path", True), ("model", False), ("quant.bits", False), ("target.runtime.memory", True)]
)
def test_text_fields_are_known(key: str, text: bool) -> None:
    assert is_text(key) is text
