"""Tiny random models of real families, written as Hugging Face folders: what tests take through the pipeline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tests.families import COMMON, FAMILIES, OMIT


def tiny_config(family: str, **overrides: Any) -> PretrainedConfig:
    """The config of the row `family` in `tests/families.py`; `overrides` win over the row."""
    row = {**COMMON, **FAMILIES[family], **overrides}
    model_type = row.pop("type")
    return AutoConfig.for_model(model_type, **{key: value for key, value in row.items() if value is not OMIT})


def tiny_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A float32 model whose every weight is a bfloat16 value, so that fp16 and bf16 storage lose nothing that matters.

    Matrices are drawn wide enough that attention is far from uniform; vectors are off their usual 0 and 1, so that a
    forgotten bias or gamma shows.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _randomise(parameter, generator)
            if name.endswith("A_log"):  # as drawn above, most heads of a delta net would forget within a token
                parameter -= 4.0
    return model.eval()


def write_tiny_model(family: str, folder: Path, seed: int = 0, **config_overrides: Any) -> Path:
    """Writes config.json and model.safetensors (bfloat16) of a tiny `family` into `folder`, and returns the folder."""
    model = tiny_model(tiny_config(family, **config_overrides), seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def load_reference(folder: Path) -> PreTrainedModel:
    """The Hugging Face model of a folder in float32 with plain attention: the truth for every comparison."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def random_ids(count: int, vocab_size: int = 1000, seed: int = 1) -> list[int]:
    """`count` token ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(3, vocab_size, (count,), generator=generator).tolist()
    return ids


def _randomise(parameter: torch.nn.Parameter, generator: torch.Generator) -> None:
    noise = torch.randn(parameter.shape, generator=generator)
    value = parameter.data + 0.1 * noise if parameter.dim() < 2 else noise / math.sqrt(parameter.shape[-1])
    # fp16 holds a bfloat16 value exactly only above its own smallest normal number.
    value[value.abs() < 2**-12] = 0
    parameter.data.copy_(value.to(torch.bfloat16))
