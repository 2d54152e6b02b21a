"""A Hugging Face folder with random weights whose logits show mistakes, and a tokenizer of 256 bytes."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.graph.towers.loader import loader

SEED = 20
# Decay rates of a state from token to token, by the end of their names: as drawn, most heads would forget within one
# token, and a state that is lost or kept too long would not show.
DECAYS, SLOWER = ("A_log",), 4.0
SMALLEST = 2.0**-12  # far above fp16's smallest normal number, so that bfloat16 values survive fp16 storage exactly


def random_model(config: Any) -> Any:
    """A float32 model in eval mode with deterministic weights that bfloat16 and fp16 both hold exactly.

    Matrices have variance 1 / columns: attention scores then differ by whole units, unlike at the usual 0.02, and a
    wrong position, mask or head shows in the logits. A convolution's columns are its channels × window, or else what
    comes after would be drowned in it. Vectors (norms, biases) are moved off 0 and 1, so each counts.
    """
    import torch
    from transformers.initialization import no_init_weights

    build: Any = loader(config).from_config
    torch.manual_seed(SEED)
    with no_init_weights():  # matrices are drawn below; drawing them twice would take most of the time
        model = build(config, dtype=torch.float32, attn_implementation="eager")
    _start_vectors(model)
    model.tie_weights()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        kernels = {module.weight for module in model.modules() if isinstance(module, torch.nn.modules.conv._ConvNd)}
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            matrix = parameter.dim() >= 2
            columns = parameter[0].numel() if parameter in kernels else parameter.shape[-1]
            noise = noise.div_(math.sqrt(columns)) if matrix else noise.mul_(0.1).add_(parameter)
            noise -= SLOWER * name.endswith(DECAYS)
            parameter.copy_(torch.nn.functional.hardshrink(noise, SMALLEST).bfloat16())
    return model.eval()


def _start_vectors(model: Any) -> None:
    """Give norms and their like the values that training starts from, and biases of matrices zero."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if any(parameter.dim() >= 2 for parameter in own):
                for parameter in own:
                    parameter.zero_()
            elif own:
                model._init_weights(module)


def write_folder(model: Any, folder: Path, code: Path) -> None:
    """config.json, model.safetensors (bfloat16), tokenizer.json; and `*.py` of `code`, the model's own code."""
    import torch

    state = {name: value.bfloat16() for name, value in model.state_dict().items()}
    with _no_distributed_tensors():
        model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    del state
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["dtype"] = str(torch.bfloat16).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n', "utf-8")
    for path in sorted(code.glob("*.py")):
        shutil.copyfile(path, folder / path.name)


@contextmanager
def _no_distributed_tensors() -> Iterator[None]:
    """While open, they cannot be imported, unless they have been already: huggingface_hub asks of each tensor whether
    it is one, and takes an ImportError for a no. Importing them takes a second."""
    name = "torch.distributed.tensor"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def byte_tokenizer() -> Any:
    """A byte-level BPE without merges. The engine opens no model without a tokenizer; the self-check feeds ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
