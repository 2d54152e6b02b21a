"""GGUF tensors: against the transformers models that they were made from, and against gguf's own dequantisation."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.checkpoint.gguf import check_parts, open_gguf
from pipeline.checkpoint.gguf_config import config_from_gguf
from pipeline.checkpoint.gguf_header import read_header
from pipeline.checkpoint.gguf_tensor import dequantise, tensor_bytes
from pipeline.errors import StageFailed
from pipeline.verify.gguf_speed import parsed_once
from tests.checkpoint.gguf_files import FAMILIES, converted, permute, stored_tensors, tiny_model, write_model

QUANTISABLE = ["BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_model_rebuilt_from_the_file_alone_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    """Names, permutations, offsets and configuration at once: any of them wrong changes the logits."""
    model = tiny_model(family)
    path = tmp_path / "m.gguf"
    write_model(path, family, model)
    checkpoint = open_gguf([path])
    config = config_from_gguf(read_header(path).metadata, {name: t.shape for name, t in checkpoint.items()})
    folder = tmp_path / "hf"
    folder.mkdir()
    save_checkpoint(folder, config, checkpoint)
    again, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def save_checkpoint(folder: Path, config: dict, checkpoint: dict) -> None:
    """A plain Hugging Face folder, so that transformers' own loader judges names and values."""
    AutoConfig.for_model(**config).save_pretrained(folder)
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(tensor.read()) for name, tensor in checkpoint.items()},
              str(folder / "model.safetensors"), metadata={"format": "pt"})  # fmt: skip


def test_the_test_can_fail() -> None:
    """The writer's permutation is not the identity, nor its own inverse."""
    rows = np.arange(32, dtype=np.float32)[:, None]
    once = permute(rows, 2)
    assert not np.array_equal(once, rows) and not np.array_equal(permute(once, 2), rows)


@pytest.mark.parametrize("rows", [(0, 1), (3, 4), (15, 17), (16, 32), (7, 61), (0, None), (20, 20)])
def test_row_slices_of_permuted_tensors(tmp_path: Path, rows: tuple[int, int | None]) -> None:
    model = tiny_model("llama")
    write_model(tmp_path / "m.gguf", "llama", model, kind="Q8_0")
    tensor = open_gguf([tmp_path / "m.gguf"])["model.layers.1.self_attn.q_proj.weight"]
    expected = model.model.layers[1].self_attn.q_proj.weight.detach().numpy()
    number = gguf.GGMLQuantizationType.Q8_0
    expected = gguf.quants.dequantize(gguf.quants.quantize(expected, number), number)
    np.testing.assert_array_equal(tensor.read(*rows), expected[slice(*rows)])


@pytest.mark.parametrize("kind", QUANTISABLE)
def test_stored_types_against_the_library(tmp_path: Path, kind: str) -> None:
    number = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(0).standard_normal((40, 512)).astype(np.float32)
    packed = gguf.quants.quantize(values, number)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = open_gguf([tmp_path / "m.gguf"])["model.layers.0.mlp.up_proj.weight"]
    assert (tensor.shape, tensor.dtype) == ((40, 512), kind)
    expected = gguf.quants.dequantize(packed, number) if kind != "F16" else values.astype(np.float16)
    np.testing.assert_array_equal(tensor.read(5, 33).astype(np.float32), expected[5:33].astype(np.float32))


@pytest.mark.parametrize("kind", sorted(kind.name for kind in gguf.quants._type_traits))
def test_every_type_that_the_library_dequantises(kind: str) -> None:
    """In pieces as at once: a block cut in two, or a piece out of place, would differ."""
    number = gguf.GGMLQuantizationType[kind]
    size = tensor_bytes((512,), kind)
    rows = np.random.default_rng(1).integers(0, 256, (300, size), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, number)
    np.testing.assert_array_equal(dequantise(rows, kind, 512), expected)


def test_smollm2_against_ggufs_own_reader(smollm2: Path) -> None:
    checkpoint = open_gguf([smollm2])
    with parsed_once():
        reader = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}
    assert len(checkpoint) == len(reader) == 272
    for name, stored in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight"),
        ("model.layers.29.input_layernorm.weight", "blk.29.attn_norm.weight"),
    ):
        tensor = reader[stored]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(checkpoint[name].read(), expected)
        np.testing.assert_array_equal(checkpoint[name].read(100, 200), expected[100:200])
    q = reader["blk.3.attn_q.weight"]
    ours = checkpoint["model.layers.3.self_attn.q_proj.weight"].read()
    np.testing.assert_array_equal(permute(ours, 9), gguf.quants.dequantize(q.data, q.tensor_type))


def test_split_files_are_one_model(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    write_model(tmp_path / "m.gguf", "qwen2", model, split=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 2
    (tmp_path / "whole").mkdir()
    write_model(tmp_path / "whole" / "m.gguf", "qwen2", model)
    whole = open_gguf([tmp_path / "whole" / "m.gguf"])
    split = open_gguf(parts)
    assert set(split) == set(whole)
    for name in whole:
        np.testing.assert_array_equal(split[name].read(), whole[name].read())
    with pytest.raises(StageFailed, match="parts"):
        open_gguf(parts[:-1])
    with pytest.raises(StageFailed, match="parts"):
        check_parts([read_header(parts[0]), read_header(parts[0])])


def test_experts_are_tensors_of_their_own(tmp_path: Path) -> None:
    model = tiny_model("qwen3moe")
    write_model(tmp_path / "m.gguf", "qwen3moe", model, kind="Q8_0")
    checkpoint = open_gguf([tmp_path / "m.gguf"])
    stacked = stored_tensors("qwen3moe", model)["blk.1.ffn_down_exps.weight"]
    number = gguf.GGMLQuantizationType.Q8_0
    for expert in range(4):
        tensor = checkpoint[f"model.layers.1.mlp.experts.{expert}.down_proj.weight"]
        expected = gguf.quants.dequantize(gguf.quants.quantize(stacked[expert], number), number)
        np.testing.assert_array_equal(tensor.read(9, 33), expected[9:33])


def test_gemma_norms_lose_what_the_converter_added(tmp_path: Path) -> None:
    model = tiny_model("gemma3")
    write_model(tmp_path / "m.gguf", "gemma3", model)
    ours = open_gguf([tmp_path / "m.gguf"])["model.layers.0.self_attn.q_norm.weight"].read()
    expected = model.model.layers[0].self_attn.q_norm.weight.detach().numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-7)
    assert abs(converted("gemma3", "blk.0.attn_q_norm.weight", expected, model.config) - expected).min() > 0.9


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, "qwen2", tiny_model("qwen2"))
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(StageFailed, match="truncated"):
        open_gguf([path])


def test_unknown_architecture_and_tensor(tmp_path: Path) -> None:
    for arch, name, message in (
        ("qwen22", "output.weight", "'qwen22' is not known here. Did you mean 'qwen2'"),
        ("qwen2", "blk.0.strange.weight", "blk.0.strange.weight has no place"),
    ):
        writer = gguf.GGUFWriter(tmp_path / f"{arch}.gguf", arch)
        writer.add_tensor(name, np.zeros((2, 2), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(StageFailed, match=message):
            open_gguf([tmp_path / f"{arch}.gguf"])


def test_type_that_nothing_dequantises(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("output.weight", np.zeros((2, 292), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(StageFailed, match="Q8_K, which gguf cannot dequantise"):
        open_gguf([path])
