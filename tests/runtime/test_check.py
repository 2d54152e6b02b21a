"""The checks that the engine does not make."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.runtime.check import check, modernised, refuse
from pipeline.runtime.keys import KEYS


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"reuse_vk": True}, "reuse_vk: the engine reads no such key. Did you mean 'reuse_kv'?"),
        ({"reuse_kv": "true"}, "reuse_kv must be true or false, not 'true'"),
        ({"reuse_kv": 1}, "reuse_kv must be true or false, not 1"),
        ({"thread_num": True}, "thread_num must be a whole number, not True"),
        ({"thread_num": 2.0}, "thread_num must be a whole number, not 2.0"),
        ({"thread_num": 0}, "thread_num must be at least 1, not 0"),
        ({"thread_num": 5000}, "thread_num must be at most 1024, not 5000"),
        ({"temperature": float("nan")}, "temperature must be a number, not nan"),
        ({"temperature": 0}, "temperature must be at least 0.01, not 0"),
        ({"top_p": 1.5}, "top_p must be at most 1, not 1.5"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 1 tokens, not -1"),
        ({"memory": "tiny"}, "memory must be one of low, normal, high, not 'tiny'"),
        ({"attention_mode": 7}, "attention_mode must be one of"),
        ({"dynamic_option": 3}, "dynamic_option must be one of 0, 1, 2, 8, 9, 10, not 3"),
        ({"speculative_type": "magic"}, "speculative_type must be one of (empty), lookahead"),
        ({"sampler_type": "top_k"}, "sampler_type must be one of greedy"),
        ({"mixed_samplers": "topK"}, "mixed_samplers must be a list, not 'topK'"),
        ({"mixed_samplers": ["top_k"]}, "mixed_samplers: 'top_k' is none of greedy"),
        ({"banned_tokens": [1, -2]}, "banned_tokens: -2 is below 0"),
        ({"banned_tokens": [1.5]}, "banned_tokens: 1.5 is not a whole number"),
        ({"image_mean": [1.0, 2.0]}, "image_mean must have 3 elements, not 2"),
        ({"logit_bias": {"x": 1.0}}, "logit_bias: 'x' is not a token id"),
        ({"logit_bias": {"12": "much"}}, "logit_bias.12 must be a number, not 'much'"),
        ({"llm_model": "../other/llm.mnn"}, "llm_model: '../other/llm.mnn' leaves the product's folder"),
        ({"llm_weight": "/etc/passwd"}, "llm_weight: '/etc/passwd' leaves the product's folder"),
        ({"tokenizer_file": "a\\..\\..\\b"}, "tokenizer_file: 'a\\\\..\\\\..\\\\b' leaves"),
        ({"embedding_file": "C:\\x"}, "embedding_file: 'C:\\\\x' leaves"),
        ({"embedding_file": "a\0b"}, "embedding_file: 'a\\x00b' leaves"),
        ({"mllm": {"threads": 2}}, "mllm.threads: the engine reads only backend_type"),
        ({"mllm": {"thread_num": 0}}, "mllm.thread_num must be at least 1"),
        ({"jinja": {"template": "x"}}, "jinja.template: the engine reads only chat_template, eos, bos, context there"),
        ({"jinja": {"chat_template": 3}}, "jinja.chat_template must be text, not 3"),
        ({"jinja": {"context": []}}, "jinja.context must be an object, not []"),
        ({"tie_embeddings": {"weight_offset": 1}}, "tie_embeddings.alpha_offset must be a whole number"),
        ({"tie_embeddings": [1, 2, 3]}, "tie_embeddings: a list must be five or six whole numbers"),
        ({"tie_embeddings": "x"}, "tie_embeddings must be an object"),
        ({"prompt_template": "%s"}, "prompt_template: engine 3.6.1 ignores it"),
        ({"quant_qkv": 1}, "quant_qkv is an old name: write attention_mode"),
        ({"is_single": True}, "is_single: models split into block files are gone"),
    ],
)
def test_a_wrong_value_is_one_line(values: dict[str, Any], problem: str) -> None:
    (line,) = check(values)
    assert line.startswith(problem)


TIE = {"weight_offset": 5, "alpha_offset": 9, "alpha_size": 4, "quant_bit": 8, "quant_block": 64, "alpha_dtype": "fp16"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 1, "top_k": 40, "reuse_kv": True, "tmp_path": "/data/local/tmp/x"},
        {"mixed_samplers": ["penalty", "topK", "temperature"], "logit_bias": {"7": -2, "8": 0.5}},
        {"tie_embeddings": TIE},
        {"tie_embeddings": [5, 9, 4, 8, 64]},
        {"tie_embeddings": [5, 9, 4, 8, 64, 1]},
        {"llm_model": "sub/llm.mnn", "llm_weight": "a..b.weight", "embedding_file": ""},
        {"jinja": {"chat_template": "x", "eos": "</s>", "context": {"enable_thinking": False}}},
        {"mllm": {"backend_type": "cpu", "memory": "low"}},
    ],
)
def test_sound_values_pass(values: dict[str, Any]) -> None:
    assert check(values) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"quant_bit": 6}, "tie_embeddings.quant_bit must be 4, 8 or 16, not 6"),
        ({"alpha_dtype": "bf16"}, "tie_embeddings.alpha_dtype must be fp16 or fp32, not 'bf16'"),
        ({"weight_offset": -1}, "tie_embeddings.weight_offset must be a whole number, not negative"),
        ({"alpha_sise": 4}, "tie_embeddings.alpha_sise: the engine reads no such key. Did you mean 'alpha_size'?"),
    ],
)
def test_a_tied_embeddings_place_is_checked(change: dict[str, Any], problem: str) -> None:
    assert check({"tie_embeddings": {**TIE, **change}})[0].startswith(problem)


def test_a_key_that_the_engine_does_not_know_yet_is_named() -> None:
    assert check({"top_p": 0.5}, "3.4.0") == ["top_p: engine 3.4.0 does not read it (from 3.5.0 on)"]
    assert check({"topP": 0.5}, "3.4.0") == []


def test_every_problem_is_told() -> None:
    assert len(check({"memory": 1, "precision": "x", "y": 2, "reuse_kv": True})) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KEYS)), JSON, max_size=3))
def test_any_json_is_judged_without_a_crash(values: dict[str, Any]) -> None:
    lines = check(values)
    assert all(isinstance(line, str) and line for line in lines)


@settings(deadline=None)
@given(st.sampled_from(sorted(KEYS)), JSON)
def test_what_passes_is_json_of_the_keys_type(name: str, value: Any) -> None:
    if not check({name: value}):
        json.dumps(value, allow_nan=False)
        assert isinstance(value, (list, dict) if name == "tie_embeddings" else (KEYS[name].type, int))


@pytest.mark.parametrize(("old", "new"), [(0, 8), (1, 9), (3, 10), (4, 10)])
def test_quant_qkv_becomes_attention_mode(old: int, new: int) -> None:
    fresh, notes = modernised({"quant_qkv": old, "reuse_kv": True})
    assert fresh == {"attention_mode": new, "reuse_kv": True}
    assert notes == [f"quant_qkv={old} became attention_mode={new}"]


@pytest.mark.parametrize("dead", [2, 5, "1", True])
def test_a_quant_qkv_without_successor_is_refused(dead: object) -> None:
    with pytest.raises(UserError, match="has no successor in attention_mode"):
        modernised({"quant_qkv": dead})


def test_old_and_new_may_agree_but_not_contradict() -> None:
    assert modernised({"quant_qkv": 1, "attention_mode": 9})[0] == {"attention_mode": 9}
    for values in ({"quant_qkv": 1, "attention_mode": 8}, {"attention_mode": 8, "quant_qkv": 1}):
        with pytest.raises(UserError, match="contradict"):
            modernised(values)


def test_a_dead_name_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"lm_model: models split into block files are gone.* → remove lm_model"):
        modernised({"lm_model": "lm.mnn"})


def test_refuse_raises_the_first_problem_with_its_place() -> None:
    refuse({"reuse_kv": True}, "target.runtime")
    with pytest.raises(UserError) as error:
        refuse({"reuse_kv": 3}, "target.runtime")
    assert str(error.value).startswith("target.runtime.reuse_kv must be true or false, not 3")
