"""A copy of a model that computes the same and whose weights lie on no lattice, as a Hugging Face folder.

    python benchmarks/rescale.py smollm2-135m /tmp/rescaled [--spread 0.3]

Real weights that come in a GGUF lie on a grid of 4 bits in blocks of 32, and an algorithm that finds that grid again
looks better than it is. Here every input channel of every linear is multiplied by a number of its own, e^u with u drawn
evenly from ±spread, and what comes before it (the norm's gamma, the rows of `up_proj` and `v_proj`) is divided by the
same: within a block the steps then all differ, and the function is the old one up to rounding, which is printed.
Fine-tuning (`benchmarks/finetune.py`) far enough to leave the lattice ruins so small a model instead.

    python benchmarks/quality.py local model.path=/tmp/rescaled --quants int4 int4-wmse int4-gptq

For models of llama's layout: RMS norms before attention and before the MLP, no biases.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.divergence import model_folder  # noqa: E402
from benchmarks.finetune import save  # noqa: E402


def main(arguments: Sequence[str]) -> None:
    """Rescale, write, and say how little the logits changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--spread", type=float, default=0.3)
    options = parser.parse_args(list(arguments))

    import torch

    from pipeline.verify.huggingface import load_model, load_tokenizer

    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = model_folder(options.model, [], Path(scratch))
        model, tokenizer = load_model(folder, {}), load_tokenizer(folder)
        ids = torch.randint(model.config.vocab_size, (1, 64))
        before = model(input_ids=ids).logits
        for layer in model.model.layers:
            rescale(layer, options.spread)
        error = (model(input_ids=ids).logits - before).abs().max() / before.abs().max()
        save(model, options.out)
        tokenizer.save_pretrained(options.out)
    print(f"largest change of a logit: {float(error):.1e} of the largest logit")


def rescale(layer: Any, spread: float) -> None:
    """Scale the input channels of a decoder layer's seven linears, in place, and undo it before them."""
    attention, mlp = layer.self_attn, layer.mlp
    for norm, readers in (
        (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
        (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
    ):
        factors = _drawn(norm.weight.numel(), spread)
        norm.weight.div_(factors)
        for linear in readers:
            linear.weight.mul_(factors)
    factors = _drawn(mlp.down_proj.in_features, spread)
    mlp.up_proj.weight.div_(factors[:, None])
    mlp.down_proj.weight.mul_(factors)
    _rescale_values(attention, spread)


def _rescale_values(attention: Any, spread: float) -> None:
    """Query heads that share a value head share its factors."""
    width, rows = attention.head_dim, attention.v_proj.out_features
    factors = _drawn(rows, spread)
    attention.v_proj.weight.div_(factors[:, None])
    shared = attention.o_proj.in_features // rows
    attention.o_proj.weight.mul_(factors.view(-1, 1, width).expand(-1, shared, -1).reshape(-1))


def _drawn(count: int, spread: float) -> Any:
    import torch

    return torch.exp((2 * torch.rand(count) - 1) * spread)


if __name__ == "__main__":
    main(sys.argv[1:])
