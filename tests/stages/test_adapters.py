"""Split adapters through their three stages: built, held against PEFT on the engine; wrong ones refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.build.config import subset
from pipeline.errors import StageFailed
from pipeline.mnn.link import link as real_link
from pipeline.mnn.rewrite.low_rank import LowRank
from pipeline.mnn.runner import Engine
from pipeline.stages import adapter_quality, adapter_reference, adapters, reference
from pipeline.verify import selfcheck
from pipeline.verify.product import EXACT, assemble
from tests.checkpoint.adapters import adapted
from tests.verify.helpers import MODEL, TARGET, Notes, verify_options, write_model

IDS = list(range(40, 72))
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
EXACTLY = {**EXACT, "thread_num": 1}


def recipe(**verify: Any) -> dict[str, Any]:
    whole = selfcheck.fp16_recipe(MODEL, TARGET, {"allow_approximate": False})
    return {**whole, "verify": verify_options(**verify), "adapter": {"mode": "split", "path": "x", "weight": 1.0}}


def base(root: Path, family: str = "llama", **overrides: Any) -> dict[str, Path]:
    """A tiny model and the stages of its base product."""
    source = write_model(root / "model", family, **overrides)
    selfcheck.build(source, root, selfcheck.fp16_recipe(MODEL, TARGET, {"allow_approximate": False}))
    names = ("checkpoint", "graph", "places", "weights", "embedding", "link", "tokenizer", "config")
    return {"source": source, "split": root / "split", **{name: root / name for name in names}}


def add_adapter(inputs: dict[str, Path], name: str, seed: int = 0, **config: Any) -> torch.Tensor:
    """Saves PEFT's adapter among the split ones; the adapted model's logits."""
    model = AutoModelForCausalLM.from_pretrained(inputs["source"], dtype=torch.float32)
    with torch.no_grad():
        plain = model(torch.tensor([IDS])).logits[0]
        peft = adapted(model, seed, **config)
        peft.save_pretrained(inputs["split"] / name)
        logits = peft(torch.tensor([IDS])).logits[0]
    assert (logits - plain).abs().max() > 0.05, "the adapter must change the answer, or the test cannot fail"
    return logits


def run(module: Any, inputs: dict[str, Path], out: Path, **verify: Any) -> Notes:
    out.mkdir()
    log = Notes()
    module.run(subset(recipe(**verify), module.STAGE.config), inputs, out, log)
    return log


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
        ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
        ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    ],
)
def test_families(tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    inputs = base(tmp_path, family)
    expected = add_adapter(inputs, "one", **config)
    run(adapters, inputs, tmp_path / "adapters")
    folder = assemble([tmp_path / "product", tmp_path / "adapters"], tmp_path / "whole")
    with Engine(folder, EXACTLY, adapter="one.mnn") as engine:
        np.testing.assert_allclose(engine.logits(IDS), expected, atol=3e-4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny llama with two adapters, through all stages but the gate."""
    root = tmp_path_factory.mktemp("split")
    inputs = base(root)
    add_adapter(inputs, "first", 1, target_modules=["q_proj", "v_proj", "down_proj"])
    add_adapter(inputs, "second@0.5", 2, target_modules="all-linear")
    for module in (adapters, reference, adapter_reference):
        name = module.STAGE.name
        run(module, inputs, root / name)
        inputs[name] = root / name
    return inputs


def test_what_the_stage_writes(built: dict[str, Path]) -> None:
    files = {path.relative_to(built["adapters"]).as_posix() for path in built["adapters"].rglob("*") if path.is_file()}
    assert files == {"first.mnn", "first.json", "second.mnn", "second.json", "facts/adapters.json"}
    facts = json.loads((built["adapters"] / "facts/adapters.json").read_text())
    assert facts["first"]["linears"] == 6
    assert facts["second"]["weight"] == 0.5
    config = json.loads((built["config"] / "config.json").read_text())
    assert json.loads((built["adapters"] / "first.json").read_text()) == {**config, "llm_model": "first.mnn"}


def test_bytes_are_the_same_on_the_next_run(built: dict[str, Path], tmp_path: Path) -> None:
    run(adapters, built, tmp_path / "again")
    for name in ("first.mnn", "second.mnn"):
        assert (tmp_path / "again" / name).read_bytes() == (built["adapters"] / name).read_bytes()


def test_the_gate_passes_and_says_what_it_measured(built: dict[str, Path], tmp_path: Path) -> None:
    log = run(adapter_quality, built, tmp_path / "gate")
    report = json.loads((tmp_path / "gate/report.json").read_text())
    assert set(report) == {"first", "second"}
    for one in report.values():
        assert one["passed"]
        assert one["figures"]["effect_error"] < 1e-4
        assert {check["name"] for check in one["checks"] if check["passed"]} >= {
            "mean KL divergence from PEFT", "base after the adapter", "greedy tokens",
            "logit error at memory=normal, precision=high",
        }  # fmt: skip
    assert log.notes[0].startswith("first: 8 of 8 checks passed")


def test_an_adapter_that_is_applied_in_part_is_refused(
    built: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of six linears is left out, as an exporter does that forgets a consumer."""

    def forgetful(*arguments: Any, adapter: dict[str, LowRank], **options: Any) -> int:
        return real_link(*arguments, adapter={k: v for k, v in adapter.items() if "0.mlp" not in k}, **options)

    monkeypatch.setattr("pipeline.mnn.link.link", forgetful)
    run(adapters, built, tmp_path / "adapters")
    with pytest.raises(StageFailed, match="verification failed: mean KL divergence from PEFT"):
        run(adapter_quality, {**built, "adapters": tmp_path / "adapters"}, tmp_path / "gate")
    loose = {"16": {"max_kld": None, "min_top1": None, "selfcheck_logit_error": 1e-3}}
    with pytest.raises(StageFailed, match="error of the adapter's effect"):
        run(adapter_quality, {**built, "adapters": tmp_path / "adapters"}, tmp_path / "again", thresholds=loose)


def test_an_adapter_of_another_scale_is_refused(built: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(built["split"], tmp_path / "split")
    path = tmp_path / "split/first/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 9}))
    run(adapters, {**built, "split": tmp_path / "split"}, tmp_path / "adapters")
    with pytest.raises(StageFailed, match="verification failed"):
        run(adapter_quality, {**built, "adapters": tmp_path / "adapters"}, tmp_path / "gate")


def test_without_a_reference_the_engines_part_is_checked(built: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(built["reference"], folder)
    told = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").write_text(json.dumps({**told, "skipped": "too large"}))
    inputs = {**built, "reference": folder}
    log = run(adapter_reference, inputs, tmp_path / "adapter_reference")
    assert log.notes == ["too large"]
    run(adapter_quality, {**inputs, "adapter_reference": tmp_path / "adapter_reference"}, tmp_path / "gate")
    report = json.loads((tmp_path / "gate/report.json").read_text())["first"]
    assert [check["passed"] for check in report["checks"] if "PEFT" in check["name"]] == [None]


def test_an_adapter_that_is_not_for_this_base_is_named(built: dict[str, Path], tmp_path: Path) -> None:
    other = base(tmp_path / "other", "llama", hidden_size=32)
    add_adapter(other, "stray", target_modules=["q_proj"])
    with pytest.raises(StageFailed, match=r"adapter stray: .* is made for"):
        run(adapters, {**built, "split": other["split"]}, tmp_path / "adapters")
