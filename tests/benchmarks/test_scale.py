"""The synthetic checkpoints: what Hugging Face makes of them, that an export takes them, and the sums beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks import export, scale

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 49160,
}
PARAMETERS = {"qwen2-1.5b": 1_543_714_304, "qwen2.5-7b": 7_615_616_512, "qwen3-30b-a3b": 30_532_122_624}
"""What the models' cards round to 1.54, 7.61 and 30.5 billion: counted by Hugging Face's own classes."""


def tiny(shape: str) -> dict[str, Any]:
    config = dict(scale.SHAPES[shape].config)
    return {**config, **{key: value for key, value in TINY.items() if key in config}}


@pytest.mark.parametrize("shape", ["qwen2-1.5b", "qwen3-30b-a3b"])
def test_hugging_face_finds_every_tensor(shape: str, tmp_path: Path) -> None:
    size = scale.write_checkpoint(tiny(shape), tmp_path, shard_bytes=3_000_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == size
    assert len(set(index["weight_map"].values())) > 1
    model, told = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.bfloat16)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    gate = model.state_dict()["model.layers.1.self_attn.q_proj.weight"].float()
    assert gate.std().item() == pytest.approx(0.02, rel=0.1)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) <= model.config.vocab_size


@pytest.mark.parametrize("shape", scale.SHAPES)
def test_shapes_are_the_whole_models(shape: str) -> None:
    config = scale.SHAPES[shape].config
    parameters = sum(int(np.prod(axes)) for axes in scale.tensors(config).values())
    assert parameters == PARAMETERS[shape]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert parameters == sum(parameter.numel() for parameter in model.parameters())


def test_shards_hold_the_limit(tmp_path: Path) -> None:
    scale.write_checkpoint(tiny("qwen2.5-7b"), tmp_path, shard_bytes=7_000_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in shards] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for path in shards:
        assert path.stat().st_size < 7_100_000
        with safe_open(path, "pt") as file:
            assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118


def test_an_export_of_a_tiny_one() -> None:
    done = scale.measure("tiny", tiny("qwen3-30b-a3b"), 1, ["verify=off"])
    assert [run.exit_code for run in done] == [0, 0], done[-1].output
    timed, sampled = done
    assert not timed.stages and timed.total.wall > 0 and timed.total.cpu > 0
    assert {"graph", "weights", "link"} <= set(sampled.stages)
    assert sampled.total.peak > 50e6


def run(wall: float) -> export.Scenario:
    return export.Scenario("run", [], total=export.Cost(wall, 0, 0), sampled=False)


def sampled(wall: float, peak: int) -> export.Scenario:
    return export.Scenario("run", [], total=export.Cost(wall, 0, peak))


def test_summary_extrapolates_by_layer() -> None:
    shape = scale.SHAPES["qwen3-30b-a3b"]
    told = scale.summary(shape, {2: [run(9), run(10), run(14), sampled(99, 10**9)], 4: [run(16), sampled(99, 9)]})
    assert "2 layers: 10.0 s (median of 3, 9.0 to 14.0 s), peak 1.00 GB" in told
    assert "one layer: 3.00 s; all 48, extrapolated: 148 s" in told
    assert "extrapolated" not in scale.summary(scale.SHAPES["qwen2-1.5b"], {28: [run(9), sampled(10, 7)]})
