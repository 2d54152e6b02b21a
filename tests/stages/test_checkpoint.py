"""The checkpoint stage: a weightless Hugging Face folder that transformers takes, from a folder and from a GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from pipeline.stages.checkpoint import STAGE, run
from tests.checkpoint.adapters import adapted, base_model, save
from tests.checkpoint.conftest import KeptLog, smollm2  # noqa: F401
from tests.checkpoint.quantised_files import gptq_tensors, random_linear, write_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, tie_word_embeddings=False)  # fmt: skip
    folder = tmp_path / "source"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    (folder / "tokenizer.json").write_text('{"x": 1}')
    (folder / "tokenizer.model").write_bytes(b"\0binary")
    return folder


def out_of(source: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    run({}, {"source": source}, out, KeptLog())
    return out


def test_folder(source: Path, tmp_path: Path) -> None:
    out = out_of(source, tmp_path)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tensors.json",
        "small.safetensors"}  # fmt: skip
    for name in ("config.json", "tokenizer.json", "tokenizer.model"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    model = LlamaForCausalLM.from_pretrained(source)
    table = json.loads((out / "tensors.json").read_text())["tensors"]
    assert table == {name: {"shape": list(value.shape), "dtype": "BF16"} for name, value in model.state_dict().items()}
    with safe_open(str(out / "small.safetensors"), "pt") as file:
        for name, value in model.state_dict().items():
            assert torch.equal(file.get_tensor(name), value)


def test_gguf(smollm2: Path, tmp_path: Path) -> None:  # noqa: F811
    source = tmp_path / "source"
    source.mkdir()
    (source / smollm2.name).symlink_to(smollm2)
    out = out_of(source, tmp_path)
    config = AutoConfig.from_pretrained(out)
    assert (config.model_type, config.num_hidden_layers, config.rms_norm_eps) == ("llama", 30, 1e-05)
    assert GenerationConfig.from_pretrained(out).eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(out)("Hello world")["input_ids"] == [19556, 905]
    with torch.device("meta"):
        wanted = {name: list(value.shape) for name, value in LlamaForCausalLM(config).state_dict().items()}
    del wanted["lm_head.weight"]  # tied
    table = json.loads((out / "tensors.json").read_text())["tensors"]
    assert {name: entry["shape"] for name, entry in table.items()} == wanted
    assert table["model.embed_tokens.weight"]["dtype"] == "Q8_0"
    with safe_open(str(out / "small.safetensors"), "np") as file:
        assert len(list(file.keys())) == 61
        assert np.isfinite(file.get_tensor("model.norm.weight")).all()


def test_lattices_are_told(smollm2: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / smollm2.name).symlink_to(smollm2)
    table = json.loads((out_of(tmp_path / "source", tmp_path) / "tensors.json").read_text())["tensors"]
    assert table["model.layers.0.mlp.up_proj.weight"]["lattice"] == {"bits": 4, "block": 32, "symmetric": False}
    assert table["model.embed_tokens.weight"]["lattice"] == {"bits": 8, "block": 32, "symmetric": True}
    assert "lattice" not in table["model.norm.weight"]


def test_quantised_source_becomes_a_plain_folder(tmp_path: Path) -> None:
    linear = random_linear(64, 64, 4, 32)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    source = write_folder(tmp_path / "source", gptq_tensors("model.layers.0.self_attn.q_proj", linear, 4), config)
    (source / "quantize_config.json").write_text("{}")
    out = out_of(source, tmp_path)
    assert json.loads((out / "config.json").read_text()) == {"model_type": "llama"}
    assert not (out / "quantize_config.json").exists()
    assert json.loads((out / "tensors.json").read_text())["tensors"] == {
        "model.layers.0.self_attn.q_proj.weight": {
            "shape": [64, 64], "dtype": "GPTQ4", "lattice": {"bits": 4, "block": 32, "symmetric": False}}}  # fmt: skip


def test_adapter_that_unties(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    adapter = adapted(base_model(**tied), target_modules=["q_proj", "lm_head"])
    base, folder = save(base_model(**tied), adapter, tmp_path)
    out, log = tmp_path / "out", KeptLog()
    out.mkdir()
    run({"adapter": {"mode": "merge", "weight": 1.0}}, {"source": base, "adapter": folder}, out, log)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in json.loads((out / "tensors.json").read_text())["tensors"]
    assert any("no longer tied" in note for note in log.notes)


def test_same_bytes_every_time(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = out_of(source, tmp_path / "a"), out_of(source, tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_stage_declares_what_it_reads() -> None:
    assert {entry.stage for entry in STAGE.inputs} == {"source", "adapter"} and STAGE.in_process
