"""What quick_import leaves out is left out, and nothing else is different afterwards. Each case in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

QUICK = "from pipeline.graph import quick_import"
MODEL = """
import torch, transformers
config = transformers.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                  num_attention_heads=4, num_key_value_heads=2)
torch.manual_seed(0)
model = transformers.AutoModelForCausalLM.from_config(config).eval()
with torch.no_grad():
    told["logits"] = model(torch.tensor([[1, 2, 3, 4]])).logits.flatten().tolist()[:200]
"""
CACHE = """
import tempfile
from pathlib import Path
from pipeline.verify.random_model import write_folder
with tempfile.TemporaryDirectory() as folder:
    write_folder(model, Path(folder), Path(folder))
    back = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
told["saved"] = all(torch.equal(value.bfloat16().float(), back.state_dict()[name])
                    for name, value in model.state_dict().items())
recurrent = transformers.Lfm2Config(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                    num_attention_heads=4, num_key_value_heads=2,
                                    layer_types=["conv", "full_attention"])
recurrent = transformers.AutoModelForCausalLM.from_config(recurrent).eval()
with torch.no_grad():
    told["cached"] = recurrent.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False).tolist()
"""


def _run(*lines: str) -> dict[str, Any]:
    code = "\n".join(("import json, sys", "told = {}", *lines, "print(json.dumps(told))"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    return _run(
        QUICK,
        "import pipeline.graph.export, torch, transformers.models as models",
        "heavy = 'torch._dynamo.eval_frame', 'torch.distributed.tensor', 'sympy.core'",
        "told['heavy'] = [name for name in heavy if name in sys.modules]",
        "told['names'] = [sorted(models._modules), sorted(models._class_to_module.items())]",
        "told['distributed'] = torch.distributed.is_available()",
        MODEL,
        CACHE,
        "told['heavy_after'] = [name for name in heavy if name in sys.modules]",
        "from transformers import masking_utils",
        "with masking_utils.TransformGetItemToIndex() as mode: told['mode'] = type(mode).__module__",
        "import torch._dynamo",
        "told['compiler'] = hasattr(torch._dynamo, 'optimize') and torch.compiler.disable(abs)(-1)",
    )


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return _run(
        "import torch, transformers.models as models",
        "told['names'] = [sorted(models._modules), sorted(models._class_to_module.items())]",
        "told['distributed'] = torch.distributed.is_available()",
        MODEL,
        CACHE,
        QUICK,
        "told['compiler'] = hasattr(torch._dynamo, 'optimize')",
    )


def test_the_compiler_and_distributed_tensors_are_not_imported(quick: dict[str, Any]) -> None:
    assert quick["heavy"] == []


def test_nor_are_they_by_a_model_that_is_saved_or_keeps_a_state(quick: dict[str, Any]) -> None:
    """accelerate and huggingface_hub ask on saving, the cache of a recurrent state when it is made."""
    assert quick["heavy_after"] == []
    assert quick["saved"] is True


def test_the_same_names_and_the_same_numbers(quick: dict[str, Any], usual: dict[str, Any]) -> None:
    for key in ("names", "distributed", "logits", "cached"):
        assert quick[key] == usual[key], key


def test_what_has_a_stand_in_is_real_when_it_is_used(quick: dict[str, Any]) -> None:
    assert quick["mode"] == "torch._dynamo._trace_wrapped_higher_order_op"
    assert quick["compiler"] == 1


def test_after_a_usual_import_it_does_nothing(usual: dict[str, Any]) -> None:
    assert usual["compiler"] is True
