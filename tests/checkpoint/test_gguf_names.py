"""Names, against gguf's own map of tensor names."""

from __future__ import annotations

import gguf
import pytest

from pipeline.checkpoint.gguf_names import ARCHITECTURES, ROPE_TABLES, architecture, huggingface_name
from pipeline.errors import StageFailed


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_every_name_is_one_that_the_library_maps_back(family: str) -> None:
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(number, 3)
    table = ARCHITECTURES[family]
    known = {names.get_name(key) for key in names.mapping}
    checked = 0
    for leaf in table.layer:
        stored = f"blk.2.{leaf}"
        if stored not in known:
            continue  # a leaf that this family shares the table of another with
        ours = huggingface_name(f"{stored}.weight", table)
        assert ours is not None
        assert names.get_name(ours.removesuffix(".weight").replace("experts.{}", "experts")) == stored
        checked += 1
    assert checked >= 7


def test_top_level_names() -> None:
    table = architecture("llama")
    assert huggingface_name("token_embd.weight", table) == "model.embed_tokens.weight"
    assert huggingface_name("output.weight", table) == "lm_head.weight"
    assert huggingface_name("output_norm.bias", table) == "model.norm.bias"
    assert huggingface_name("blk.11.attn_q.bias", table) == "model.layers.11.self_attn.q_proj.bias"


def test_rope_tables_are_no_parameters() -> None:
    assert all(huggingface_name(name, architecture("llama")) is None for name in ROPE_TABLES)


@pytest.mark.parametrize("name", ["blk.0.ssm_in.weight", "mm.0.weight", "blk.x.attn_q.weight", "attn_q.weight", ""])
def test_names_without_a_place(name: str) -> None:
    with pytest.raises(StageFailed, match="has no place in a llama model"):
        huggingface_name(name, architecture("llama"))


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(StageFailed, match="gemma3"):
        architecture("mamba")
