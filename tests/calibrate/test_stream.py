"""The layer-by-layer run against the whole model, for families that call their layers in different ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config, Qwen3_5Config

from pipeline.calibrate.stream import Stream
from pipeline.checkpoint import open_checkpoint
from pipeline.errors import StageFailed
from pipeline.graph.towers.loader import loader
from pipeline.verify.huggingface import load_config
from tests.towers.models import load, write_model

SMALL = {"vocab_size": 96, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48,
         "num_key_value_heads": 1, "max_position_embeddings": 64}
FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "qwen2, tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "gemma3, sliding layers": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=4, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention"]),
    "qwen3.5 with its encoder": Qwen3_5Config(
        text_config={**SMALL, "head_dim": 16, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
                     "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                     "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}),
    "gpt2, transposed weights": GPT2Config(vocab_size=96, n_layer=3, n_embd=32, n_head=2, n_positions=64),
}


def through_layers(stream: Stream, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        (hidden,) = stream.begin([ids])
        for number in range(len(stream.layers)):
            with stream.loaded(stream.layer_path(number)):
                hidden = stream.run(number, hidden)
        with stream.loaded(stream.final_norm()) as norm, stream.loaded("lm_head") as head:
            return torch.as_tensor(head(norm(hidden)))


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_whole_model(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = loader(FAMILIES[family]).from_config(FAMILIES[family], dtype=torch.float32).eval()
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 96, (12,)).tolist()
    found = through_layers(Stream(AutoConfig.from_pretrained(tmp_path), open_checkpoint(tmp_path)), ids)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["idefics3", "internvl", "minicpmv4_6", "qwen2_5_omni", "qwen3_vl"])
def test_the_decoder_of_a_model_with_encoders(family: str, tmp_path: Path) -> None:
    """Text through its layers alone; the encoders, which it does not need, are not even read."""
    source = write_model(family, tmp_path / "source")
    stream = Stream(load_config(source), open_checkpoint(source))
    ids = torch.randint(0, 96, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        expected = load(source)(torch.tensor([ids])).logits
    error = (through_layers(stream, ids) - expected).abs().max()
    assert error < 1e-5 * expected.abs().max()  # of logits up to 90, unlike above


def test_only_the_loaded_layer_has_weights(stream: Stream) -> None:
    stream.begin([[1, 2, 3]])
    assert all(parameter.is_meta for parameter in stream.model.parameters())
    with stream.loaded(stream.layer_path(1)):
        real = [name for name, parameter in stream.model.named_parameters() if not parameter.is_meta]
        assert real and all(name.startswith("model.layers.1.") for name in real)
    assert all(parameter.is_meta for parameter in stream.model.parameters())


def test_patched_tensors_are_what_a_layer_sees(stream: Stream) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    with stream.loaded(stream.layer_path(0)) as layer:
        before = layer.get_parameter("mlp.up_proj.weight").clone()
        stream.patched[name] = 2 * before.numpy()
        stream.load(stream.layer_path(0))
        torch.testing.assert_close(layer.get_parameter("mlp.up_proj.weight"), 2 * before)


def test_not_finite_weights_are_named(stream: Stream) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    stream.patched[name] = float("nan") * stream.checkpoint[name].read()
    with pytest.raises(StageFailed, match=r"'model\.layers\.1\.self_attn\.k_proj\.weight' holds NaN"):
        stream.load(stream.layer_path(1))
