"""Cross-field rules: each broken one is one clear line, and sound recipes pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from pipeline.errors import UserError
from pipeline.recipe import validate
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED, options
from pipeline.recipe.schema import Quant, Recipe, Rule


def recipe(*overrides: str) -> Recipe:
    (composed,) = compose(overrides, [SHIPPED], Path("/w"))
    return composed.recipe


@pytest.mark.parametrize("target", options("target", [SHIPPED]))
def test_every_target_runs_int4_or_says_what_it_needs(target: str) -> None:
    if target == "hexagon":
        with pytest.raises(
            UserError, match=r"quant\.lm_bits=8: target 'hexagon' runs 4 bits only → try quant\.lm_bits=4"
        ):
            recipe(f"target={target}")
        with pytest.raises(
            UserError, match=r"target 'hexagon' runs symmetric weights only → add quant\.symmetric=true"
        ):
            recipe(f"target={target}", "quant.lm_bits=4")
        return
    assert recipe(f"target={target}").target.name == target


def test_hexagon_runs_symmetric_four_bits() -> None:
    assert recipe("target=hexagon", "quant.lm_bits=4", "quant.symmetric=true").target.symmetric_only


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quant.bits=1"], "quant.bits=1: target 'x86' runs 2, 3, 4, 5, 6, 7, 8, 16 bits only"),
        (["quant.bits=9"], "quant.bits=9: target"),
        (
            ["quant.lm_bits=32"],
            "quant.lm_bits=32: target 'x86' runs 2, 3, 4, 5, 6, 7, 8, 16 bits only → try quant.lm_bits=16",
        ),
        (["target=cuda", "quant.bits=3"], "quant.bits=3: target 'cuda' runs 4, 8, 16 bits only"),
        (["quant.rules=[{pattern: x, bits: 1}]"], "quant.rules[0].bits=1: target"),
        (["quant.block=-32"], "quant.block=-32 must be 0 (one scale per output channel) or a multiple of 16"),
        (
            ["quant.block=8"],
            "quant.block=8 must be 0 (one scale per output channel) or a multiple of 16 → try quant.block=16",
        ),
        (["quant.block=40"], "quant.block=40 must be 0"),
        (["quant.lm_block=12"], "quant.lm_block=12 must be 0"),
        (
            ["quant=int4-hqq", "quant.symmetric=true"],
            "hqq tunes zero points, and symmetric weights have none → use quant=int4-mse quant.symmetric=true",
        ),
        (
            ["quant.symmetric=true", "quant.rules=[{pattern: x, algorithm: hqq}]"],
            "hqq tunes zero points, and symmetric weights have none",
        ),
        (["target=metal", "quant.rules=[{pattern: x, bits: 6}]"], "quant.rules[0].bits=6: target 'metal' runs 2, 3, 4"),
        (
            ["target=hexagon", "quant.lm_bits=4", "quant.rules=[{pattern: x, bits: 8}]"],
            "quant.rules[0].bits=8: target 'hexagon' runs 4 bits only",
        ),
        (
            ["quant=int4-awq", "adapter=split", "adapter.path=/a"],
            "awq scales what linears read, and a split adapter's would stay as they are → use adapter=merge",
        ),
        (["quant.algorithm=gtpq"], "no quantisation algorithm 'gtpq'. Did you mean 'gptq'?"),
        (["quant.rules=[{pattern: x, algorithm: best}]"], "no quantisation algorithm 'best'."),
        (["quant.scale_bits=8"], "quant.scale_bits must be 16 or 32, not 8"),
        (["quant.rules=[{bits: 8}]"], "quant.rules[0] has no pattern"),
        (["quant.rules=[{pattern: '(', bits: 8}]"], "quant.rules[0].pattern '(' is no regular expression"),
        (["quant.target_bpw=0"], "quant.target_bpw must be above 0"),
        (["quant.calibration.sequences=0"], "quant.calibration needs at least one sequence"),
        (["embedding=tied", "quant.lm_bits=6"], "embedding=tied shares the head's 6-bit rows"),
        (["embedding.bits=5"], "embedding.bits must be 4, 8 or 16, not 5"),
        (["embedding.mode=shared"], "embedding.mode must be one of auto, tied, separate, not 'shared'"),
        (["adapter=merge"], "adapter=merge needs the adapter's folder → add adapter.path=DIR"),
        (["adapter.path=/x"], "adapter.path is given, but adapter=none would ignore it"),
        (["model.hub=ftp"], "model.hub must be one of huggingface, modelscope, local, package, not 'ftp'"),
        (["model.hub=huggingface", "model.repo="], "model 'smollm2-135m' names no repository"),
        (["model.hub=huggingface", "model.repo=just-a-name"], "model.repo=just-a-name is not of the form OWNER/NAME"),
        (["model.hub=huggingface", "model.repo=../../x"], "model.repo=../../x is not of the form OWNER/NAME"),
        (["model=phi-2", "model.hub=modelscope", "model.repo="], "model 'phi-2' names no ModelScope repository"),
        (["model.package.file="], "model 'smollm2-135m' names no file of a package"),
        (["target.engine=3.6"], "target.engine=3.6 is not a version"),
        (["target.engine=3.5.0"], "engine 3.5.0 cannot run a C4-fused graph"),
        (["target.engine=3.5.0", "target.graph.fuse_c4=false"], "engine 3.5.0 reads tie_embeddings as a list only"),
        (
            ["target.engine=3.5.0", "target.graph.fuse_c4=false", "target.tie_embeddings=list"],
            "engine 3.5.0 reads scales of 32 bits only",
        ),
        (["target.tokenizer_format=bin"], "target.tokenizer_format must be one of mtok, txt"),
        (["target=mnn-3.4", "target.runtime.top_p=0.5"], "target.runtime.top_p: engine 3.4.0 does not read it"),
        (["target.runtime.thread_num=0"], "target.runtime.thread_num must be at least 1"),
        (
            ["target.runtime.llm_model=/etc/passwd"],
            "target.runtime.llm_model: '/etc/passwd' leaves the product's folder",
        ),
        (["verify.mode=maybe"], "verify.mode must be one of fast, full, off"),
        (["verify.length=0"], "verify.length must be at least 1"),
        (["cache.keep=lots"], "cache.keep=lots is not a size"),
        (["cache.remote_mode=write"], "cache.remote_mode must be one of off, read, readwrite"),
    ],
)
def test_a_broken_rule_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(*overrides)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("block", [0, 16, 32, 64, 96, 192, 256])
def test_blocks_of_sixteen_pass(block: int) -> None:
    assert recipe(f"quant.block={block}").quant.block == block


@pytest.mark.parametrize("keep", ["20GB", "500MB", "1.5TiB", "1024", "3 gb"])
def test_sizes_are_read(keep: str) -> None:
    assert recipe(f"cache.keep={keep}").cache.keep == keep


def test_a_tied_embedding_without_lm_bits_takes_the_bodys() -> None:
    assert validate.head_bits(Quant(bits=8)) == 8
    assert validate.head_bits(Quant(bits=4, lm_bits=16)) == 16
    assert recipe("quant=fp16", "embedding=tied").embedding.mode == "tied"


def test_notes_name_each_slow_width_once() -> None:
    slow = Recipe(quant=Quant(bits=3, lm_bits=5, rules=[Rule("x", bits=3)]))
    assert [note.partition(" ")[0] for note in validate.notes(slow)] == ["3", "5"]


SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("block", [0, 16, 32, 64, 96, 192])
def test_blocks_that_divide_the_model_pass(block: int) -> None:
    validate.validate_against_model(recipe(f"quant.block={block}"), SMOLLM2)


def test_a_block_that_does_not_divide_is_refused_with_one_that_does() -> None:
    with pytest.raises(UserError) as error:
        validate.validate_against_model(recipe("quant.block=128"), SMOLLM2)
    assert str(error.value) == "quant.block=128 does not divide the model's hidden_size of 576 → use quant.block=96"
    validate.validate_against_model(recipe("quant.block=96"), SMOLLM2)


def test_the_heads_block_must_divide_the_hidden_size_only() -> None:
    config = {**SMOLLM2, "intermediate_size": 1504}
    validate.validate_against_model(recipe("quant.block=32", "quant.lm_block=64"), config)
    with pytest.raises(UserError, match=r"quant\.lm_block=128 does not divide the model's hidden_size of 576"):
        validate.validate_against_model(recipe("quant.block=32", "quant.lm_block=128"), config)
    with pytest.raises(UserError, match=r"quant\.block=64 does not divide the model's intermediate_size of 1504"):
        validate.validate_against_model(recipe("quant.block=64"), config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["quant.block=64", "quant.rules=[{pattern: mlp, block: 32}]"],
        ["quant.block=64", "quant.rules=[{pattern: down_proj, keep: true}]"],
        ["quant=fp16", "quant.block=64"],
    ],
)
def test_a_block_that_rules_or_fp16_take_back_is_left_to_the_weights(overrides: list[str]) -> None:
    validate.validate_against_model(recipe(*overrides), {**SMOLLM2, "intermediate_size": 1504})


def test_a_model_that_no_block_divides_is_sent_to_per_channel() -> None:
    with pytest.raises(UserError, match=r"use quant\.block=0"):
        validate.validate_against_model(recipe(), {"hidden_size": 100, "intermediate_size": 300})


def test_the_decoder_of_a_vision_model_is_what_counts() -> None:
    with pytest.raises(UserError, match="hidden_size of 100"):
        validate.validate_against_model(recipe(), {"hidden_size": 1024, "text_config": {"hidden_size": 100}})


def test_tying_what_the_model_does_not_tie_is_refused() -> None:
    with pytest.raises(UserError, match="has an embedding and a head of their own"):
        validate.validate_against_model(recipe("embedding=tied"), {**SMOLLM2, "tie_word_embeddings": False})
    validate.validate_against_model(recipe("embedding=tied"), SMOLLM2)


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "qwen3_moe", "olmo2"]
)
def test_sizes_are_found_in_transformers_own_configs(family: str) -> None:
    config: dict[str, Any] = AutoConfig.for_model(family).to_dict()
    sizes = validate.input_sizes(config)
    names = {"gpt2": "n_embd"}
    assert sizes["hidden_size"] == config[names.get(family, "hidden_size")]
    if family == "qwen3_moe":
        assert sizes["moe_intermediate_size"] == config["moe_intermediate_size"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target.runtime.speculative_type=lookahead"], "target 'x86', speculative_type: drafted tokens"),
        (["target.runtime.chunk=1"], "target 'x86', chunk: the engine"),
        (["target=mnn-3.6.0"], "target 'mnn-3.6.0', engine 3.6.0 is older than 3.6.1"),
    ],
)
@pytest.mark.parametrize("model", ["lfm2-350m", "qwen3.5-0.8b"])
def test_what_a_recurrent_state_does_not_stand(model: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(f"model={model}", *overrides)
    assert recipe("model=qwen2-0.5b", *overrides)


def test_a_local_model_with_a_recurrent_state_is_known_by_its_config() -> None:
    wanted = recipe("model=local", "model.path=/m", "target.runtime.chunk=1")
    with pytest.raises(UserError, match="chunk: the engine"):
        validate.validate_against_model(wanted, AutoConfig.for_model("lfm2").to_dict())
    validate.validate_against_model(wanted, AutoConfig.for_model("llama").to_dict())


def test_a_canvas_is_counted_in_float32_or_not_at_all() -> None:
    for overrides in (["visual.positions=engine"], ["target=metal"]):
        with pytest.raises(UserError, match="on a canvas, whose positions the engine does not count"):
            recipe("model=minicpm-v-4.7-1b", *overrides)
        assert recipe("model=minicpm-v-4.7-1b", "visual.mode=off", *overrides)
        assert recipe("model=minicpm-v-4.6", *overrides)
    local = recipe("model=local", "model.path=/m", "target=metal")
    with pytest.raises(UserError, match="on a canvas"):
        validate.validate_against_model(local, AutoConfig.for_model("minicpmv4_7").to_dict())
