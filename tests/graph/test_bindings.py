"""Parameters out of checkpoint parts against what transformers itself loads from the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from pipeline.errors import UserError
from pipeline.graph.bindings import Joined, Rows, Stacked, Tensor, Transposed, bind, small_values
from pipeline.graph.ir import Part
from pipeline.graph.model import instantiate
from tests.graph import coverage
from tests.tiny_models import load_reference, tiny_config, write_tiny_model

coverage.quiet()


def _read(tensors: dict[str, torch.Tensor], parts: list[Part]) -> torch.Tensor:
    """The parts as docs/architecture.md defines them, written down a second time."""
    found = []
    for part in parts:
        tensor = tensors[part.parameter]
        tensor = tensor if part.index is None else tensor[part.index]
        tensor = tensor.T if part.transpose else tensor
        found.append(tensor if part.rows is None else tensor[slice(*part.rows)])
    return torch.cat(found)


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "family", ["llama_tied_bias", "phi3", "gpt2", "mixtral", "granitemoe", "phimoe", "deepseek_v3"]
)
def test_every_parameter_as_transformers_loads_it(family: str, tmp_path: Path) -> None:
    folder = write_tiny_model(family, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bindings = bind(instantiate(AutoConfig.from_pretrained(folder)), _shapes(tensors))
    for name, value in load_reference(folder).named_parameters(remove_duplicate=False):
        if value.dim() == 3:
            got = torch.stack([_read(tensors, bindings.parts([Part(name, index=j)])) for j in range(len(value))])
        else:
            got = _read(tensors, bindings.parts([Part(name)]))
        assert torch.equal(got.float(), value), name


def test_rows_of_an_expert_cross_the_joined_tensors(tmp_path: Path) -> None:
    folder = write_tiny_model("mixtral", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bindings = bind(instantiate(AutoConfig.from_pretrained(folder)), _shapes(tensors))
    name = "model.layers.1.mlp.experts.gate_up_proj"
    whole = dict(load_reference(folder).named_parameters())[name]
    rows = 150, 250  # gate has 192 rows
    parts = bindings.parts([Part(name, index=5, rows=rows)])
    assert [part.rows for part in parts] == [(150, 192), (0, 58)]
    assert torch.equal(_read(tensors, parts).float(), whole[5, rows[0] : rows[1]])


A, B = Tensor("a", (3, 4)), Tensor("b", (5, 4))


def test_joined_gives_each_member_its_own_rows() -> None:
    joined = Joined((A, B), 0)
    assert joined.shape == (8, 4)
    assert joined.parts(Part("p")) == [Part("a"), Part("b")]
    assert joined.parts(Part("p", rows=(2, 3), scale=2.0)) == [Part("a", rows=(2, 3), scale=2.0)]
    assert joined.parts(Part("p", rows=(2, 6))) == [Part("a", rows=(2, 3)), Part("b", rows=(0, 3))]


def test_what_joins_columns_cannot_be_cut_into_rows() -> None:
    with pytest.raises(UserError, match="another axis than its output rows"):
        Joined((A, A), 1).parts(Part("p"))


def test_transposed_turns_the_reading_round() -> None:
    turned = Transposed(A)
    assert turned.shape == (4, 3)
    assert turned.parts(Part("p")) == [Part("a", transpose=True)]
    assert Transposed(turned).parts(Part("p")) == [Part("a")]


def test_stacked_wants_an_index() -> None:
    stacked = Stacked((A, A))
    assert stacked.shape == (2, 3, 4)
    with pytest.raises(UserError, match="stacked from 2 tensors"):
        stacked.parts(Part("p"))


def test_rows_count_from_their_start() -> None:
    assert Rows(B, 2, 5).parts(Part("p", rows=(1, 2))) == [Part("b", rows=(3, 4))]
    assert Rows(B, 2, 5).parts(Part("p")) == [Part("b", rows=(2, 5))]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, tuple[int, ...]]]:
    folder = write_tiny_model("llama", tmp_path_factory.mktemp("llama"))
    shapes = _shapes(load_file(folder / "model.safetensors"))
    return instantiate(AutoConfig.from_pretrained(folder)), shapes


Llama = tuple[Any, dict[str, tuple[int, ...]]]


def test_a_missing_tensor_is_named(llama: Llama) -> None:
    model, shapes = llama
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=f"lacks tensors that the model needs: {name}$"):
        bind(model, {key: shape for key, shape in shapes.items() if key != name})


def test_an_extra_tensor_is_named(llama: Llama) -> None:
    model, shapes = llama
    with pytest.raises(UserError, match=r"does not know: model\.layers\.0\.self_attn\.g_proj\.weight$"):
        bind(model, {**shapes, "model.layers.0.self_attn.g_proj.weight": (4, 4)})


def test_many_extra_tensors_are_counted(llama: Llama) -> None:
    model, shapes = llama
    with pytest.raises(UserError, match=r"… \(9 in all\)$"):
        bind(model, {**shapes, **{f"visual.{number}": (1,) for number in range(9)}})


def test_another_shape_is_named(llama: Llama) -> None:
    model, shapes = llama
    with pytest.raises(UserError, match=r"norm\.weight is \[64\], but config\.json makes it \[128\]"):
        bind(model, {**shapes, "model.norm.weight": (64,)})


def test_frequencies_of_older_checkpoints_are_no_surprise(llama: Llama) -> None:
    model, shapes = llama
    bind(model, {**shapes, "model.layers.0.self_attn.rotary_emb.inv_freq": (16,)})


def test_a_small_value_may_be_joined_from_several_tensors(tmp_path: Path) -> None:
    """OLMo hybrid's checkpoints have a kernel each for q, k and v, the model has one."""
    folder = write_tiny_model("olmo_hybrid", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    model = instantiate(AutoConfig.from_pretrained(folder))
    values = small_values(folder / "model.safetensors", bind(model, _shapes(tensors)))
    names = [f"model.layers.0.linear_attn.{letter}_conv1d.weight" for letter in "qkv"]
    expected = torch.cat([tensors[name] for name in names]).float()
    assert torch.equal(values("model.layers.0.linear_attn.conv1d.weight"), expected)


def test_values_that_are_not_small_are_a_key_error(tmp_path: Path) -> None:
    folder = write_tiny_model("qwen3_moe", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bindings = bind(instantiate(AutoConfig.from_pretrained(folder)), _shapes(tensors))
    kept = {name: tensor for name, tensor in tensors.items() if tensor.dim() == 1}
    save_file(kept, tmp_path / "small.safetensors")
    values = small_values(tmp_path / "small.safetensors", bindings)
    assert values("model.norm.weight").shape == (128,)
    for name in ("lm_head.weight", "model.layers.0.mlp.experts.down_proj", "no.such.parameter"):
        with pytest.raises(KeyError):
            values(name)


def test_heads_that_draft_tokens_are_left_out() -> None:
    """Qwen3.5's checkpoints have one beside the model (mtp.…), which transformers does not load either."""
    model = instantiate(tiny_config("qwen3_5"))
    shapes = _shapes(dict(model.state_dict()))
    bind(model, {**shapes, "mtp.fc.weight": (8, 8), "mtp.layers.0.mlp.up_proj.weight": (8, 8)})
    with pytest.raises(UserError, match="does not know: fc"):
        bind(model, {**shapes, "fc.weight": (8, 8)})
