"""A copy of a model that a short fine-tuning moved off any lattice, as a Hugging Face folder.

    python benchmarks/finetune.py smollm2-135m /tmp/moved [--steps 12]

Real weights that come in a GGUF lie on a grid of 4 bits in blocks of 32, and an algorithm that finds that grid again
looks better than it is. AdamW on prose of the standard library's documentation strings (text that neither calibration
nor measurement uses) moves every weight; the copy is then the model to build, and its own reference:

    python benchmarks/quality.py local model.path=/tmp/moved --quants int4 int4-wmse int4-gptq
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.divergence import model_folder  # noqa: E402

LENGTH = 192
SEQUENCES = 1
"""Per step."""
WARM_UP = 4
"""Steps until the full rate: Adam's first ones are as long as its rate, whatever the gradient."""


def main(arguments: Sequence[str]) -> None:
    """Train, write, and say how far the weights went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args(list(arguments))

    import torch

    from pipeline.verify.huggingface import load_model, load_tokenizer

    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options.model, [], Path(scratch))
        model, tokenizer = load_model(folder, {}), load_tokenizer(folder)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        train(model, tokenizer, options.steps, options.rate)
        save(model, options.out)
        tokenizer.save_pretrained(options.out)
    matrices = sorted(
        float((value - before[name]).norm() / before[name].norm())
        for name, value in model.named_parameters()
        if value.dim() == 2
    )
    print(f"relative change of the matrices: median {matrices[len(matrices) // 2]:.2%}, least {matrices[0]:.2%}")


def save(model: Any, out: Path) -> None:
    """A plain Hugging Face folder: transformers refuses to save what came from a GGUF, dequantised or not."""
    config = type(model.config)(**{**model.config.to_dict(), "quantization_config": None})
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    del plain.config.quantization_config
    plain.save_pretrained(out)


def train(model: Any, tokenizer: Any, steps: int, rate: float) -> None:
    """`steps` steps of AdamW on windows of `documentation`, in float32."""
    import torch

    ids = tokenizer("\n\n".join(documentation()), add_special_tokens=False)["input_ids"]
    draw = random.Random(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        starts = [draw.randrange(len(ids) - LENGTH) for _ in range(SEQUENCES)]
        batch = torch.tensor([ids[start : start + LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()


def documentation(limit: int = 400_000) -> Iterator[str]:
    """Docstrings of the standard library's modules, classes and functions, in the order of files and lines."""
    total = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8", "replace"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                total += len(text)
                yield text
        if total > limit:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
