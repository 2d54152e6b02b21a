"""The canonical encoding: equal for equal values, different for different ones, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.build.canonical import digest, encode

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_the_encoding_can_be_read_back(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(st.dictionaries(st.text(), PLAIN, min_size=2), st.randoms(use_true_random=False))
def test_the_order_of_a_dict_does_not_count(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert encode(dict(items)) == encode(value)


@given(PLAIN, PLAIN)
def test_different_values_have_different_encodings(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (encode(one) == encode(other)) == same


def test_a_known_digest_by_hand() -> None:
    text = b'mnn-pipeline/action/1\n{"a":[1,"\\u00e9"],"b":null}'
    assert digest("action", {"b": None, "a": [1, "é"]}) == hashlib.sha256(text).hexdigest()


def test_the_domain_counts() -> None:
    assert digest("action", {}) != digest("tree", {})


@pytest.mark.parametrize("one, other", [(1, 1.0), (1, True), (0, False), ("1", 1), (None, "null"), ([], {})])
def test_python_s_loose_equalities_are_told_apart(one: Any, other: Any) -> None:
    assert digest("x", one) != digest("x", other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a": object()}, {"a": {1, 2}}, b"bytes"])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)
