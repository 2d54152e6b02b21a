"""The gate on real products: a right one passes, each kind of damage is named, and the report outlives the refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StageFailed, UserError
from pipeline.stages import parity, reference
from pipeline.stages import quality as stage
from pipeline.verify import selfcheck
from tests.tokenizer.tiny import crashing
from tests.verify.helpers import MODEL, TARGET, Notes, verify_options, write_model

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny llama's stages, its reference, and a self-check that found little error."""
    root = tmp_path_factory.mktemp("quality")
    source = write_model(root / "model")
    selfcheck.build(source, root, selfcheck.fp16_recipe(MODEL, TARGET, {"allow_approximate": False}))
    folders = {name: root / name for name in ("checkpoint", *stage.SHIPPED, "reference", "selfcheck")}
    folders["parity"] = root / "parity"
    for name in ("reference", "selfcheck", "parity"):
        folders[name].mkdir()
    config = {"model": MODEL, "adapter": {"mode": "none", "weight": 1.0}, "verify": verify_options()}
    reference.run(config, {"source": source, "checkpoint": folders["checkpoint"]}, folders["reference"], Notes())
    (folders["selfcheck"] / "selfcheck.json").write_text('{"error": 2e-6}')
    parity.run({"model": {}, "verify": {"mode": "fast"}}, folders, folders["parity"], Notes())
    return folders


def gate(inputs: dict[str, Path], out: Path, **verify: Any) -> tuple[dict[str, Any], Notes]:
    """Run the stage; its report. A refusal is raised on, with the report in `out`."""
    out.mkdir()
    log = Notes()
    stage.run({"quant": {"bits": 16}, "verify": verify_options(**verify)}, inputs, out, log)
    return json.loads((out / "report.json").read_text()), log


def refused(inputs: dict[str, Path], out: Path, **verify: Any) -> tuple[str, list[str]]:
    """The refusal's line and the names of the failed checks."""
    with pytest.raises(StageFailed) as failure:
        gate(inputs, out, **verify)
    report = json.loads((out / "report.json").read_text())
    assert report["passed"] is False
    return str(failure.value), [check["name"] for check in report["checks"] if check["passed"] is False]


def edited(inputs: dict[str, Path], tmp_path: Path, stage_name: str, file: str, edit: Edit) -> dict[str, Path]:
    """The inputs with one JSON file of one stage changed."""
    folder = tmp_path / stage_name
    shutil.copytree(inputs[stage_name], folder)
    document = json.loads((folder / file).read_text())
    edit(document)
    (folder / file).write_text(json.dumps(document))
    return {**inputs, stage_name: folder}


def limits(**changes: Any) -> dict[str, Any]:
    return {"16": {**verify_options()["thresholds"]["16"], **changes}}


def test_a_right_product_passes_every_check(inputs: dict[str, Path], tmp_path: Path) -> None:
    report, log = gate(inputs, tmp_path / "out")
    assert report["passed"] is True
    ran = {check["name"] for check in report["checks"] if check["passed"]}
    assert ran >= {
        "architecture self-check, relative logit error",
        "weight file size",
        "weight rounding error",
        "texts tokenised otherwise",
        "tokenizer parity: ids and text",
        "greedy answer",
        "greedy tokens",
        "mean KL divergence",
        "top-1 agreement",
        "logit error at memory=normal, precision=high",
    }
    assert report["figures"]["logits"]["positions"] == 48
    assert report["figures"]["exact_logits"]["max_error"] < 1e-4
    assert "checks passed" in log.notes[0]


def test_checks_that_cannot_run_are_listed_with_their_reason(inputs: dict[str, Path], tmp_path: Path) -> None:
    report, _ = gate(inputs, tmp_path / "out")
    skipped = {check["name"]: check["reason"] for check in report["checks"] if check["passed"] is None}
    assert skipped["chat template, conversation 1"] == "the model has no chat template"
    assert "does not end within 12 tokens" in skipped["answer ends with a stop token"]


def test_other_logits_than_the_references_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(inputs["reference"], folder)
    logits = np.load(folder / "logits.npy")
    np.save(folder / "logits.npy", np.roll(logits, 1, axis=-1))
    line, failed = refused({**inputs, "reference": folder}, tmp_path / "out")
    assert failed == ["mean KL divergence", "top-1 agreement"]
    assert "mean KL divergence" in line
    assert "limit 1e-06" in line
    assert str(tmp_path / "out/report.json") in line


def test_one_wrong_logit_of_the_exact_reference_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(inputs["reference"], folder)
    logits = np.load(folder / "logits_fp16.npy")
    logits[5, 7] += 0.002
    np.save(folder / "logits_fp16.npy", logits)
    assert refused({**inputs, "reference": folder}, tmp_path / "out")[1] == [
        "logit error at memory=normal, precision=high"
    ]


def test_other_token_ids_are_refused_and_the_text_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["texts"][3]["ids"][2] += 1

    changed = edited(inputs, tmp_path, "reference", "reference.json", edit)
    line, failed = refused(changed, tmp_path / "out")
    assert failed == ["texts tokenised otherwise"]
    assert "position 2" in line


def test_another_chat_template_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["templates"][0] = {
            "messages": [{"role": "user", "content": "x"}],
            "text": "<u>x</u>",
            "ids": [],
            "reason": "",
        }

    changed = edited(inputs, tmp_path, "reference", "reference.json", edit)
    assert refused(changed, tmp_path / "out")[1] == ["chat template, conversation 1"]


def test_a_plain_template_on_request_is_listed_not_compared(inputs: dict[str, Path], tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["fallbacks"] = ["plain chat template, on request: Mod"]

    report = gate(edited(inputs, tmp_path, "tokenizer", "tokenizer.json", edit), tmp_path / "out")[0]
    told = {check["name"]: check for check in report["checks"]}
    assert told["chat template"]["passed"] is None and "on request" in told["chat template"]["reason"]


def test_another_tokenizer_than_hugging_face_s_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        example = {"what": "encode", "example": "'a'", "expected": "[1]", "actual": "[2]"}
        document["parity"].update(encode_differences=1, examples=[example])

    line, failed = refused(edited(inputs, tmp_path, "parity", "parity.json", edit), tmp_path / "out")
    assert failed == ["tokenizer parity: ids and text"]
    assert "Hugging Face [1], engine [2]" in line


def test_another_greedy_answer_is_refused_where_equality_is_asked(inputs: dict[str, Path], tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["answer"]["ids"][4] ^= 1

    changed = edited(inputs, tmp_path, "reference", "reference.json", edit)
    assert refused(changed, tmp_path / "out")[1] == ["greedy tokens"]
    relaxed = gate(changed, tmp_path / "relaxed", thresholds=limits(greedy_equal=False))[0]
    assert relaxed["passed"] is True


def test_an_answer_that_does_not_stop_where_the_references_does_is_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    changed = edited(inputs, tmp_path, "reference", "reference.json", lambda told: told["answer"].update(stopped=True))
    assert refused(changed, tmp_path / "out")[1] == ["answer ends with a stop token"]


def test_a_short_weight_file_never_reaches_the_engine(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(inputs["weights"], folder)
    weights = folder / "llm.mnn.weight"
    weights.write_bytes(weights.read_bytes()[:-1000])
    line, failed = refused({**inputs, "weights": folder}, tmp_path / "out")
    assert failed == ["weight file size"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert "greedy answer" not in {check["name"] for check in report["checks"]}
    assert "weight file size" in line


def test_rounding_error_of_one_tensor_is_refused_by_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        linear = document["linears"]["model.layers.1.mlp.down_proj"]
        linear["squared_error"] = linear["squared_norm"]

    line, failed = refused(edited(inputs, tmp_path, "weights", "weights.json", edit), tmp_path / "out")
    assert failed == ["weight rounding error"]
    assert "model.layers.1.mlp.down_proj" in line


def test_a_failed_selfcheck_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    changed = edited(inputs, tmp_path, "selfcheck", "selfcheck.json", lambda told: told.update(error=0.01))
    assert refused(changed, tmp_path / "out")[1] == ["architecture self-check, relative logit error"]


def test_without_reference_logits_the_rest_is_checked_and_the_report_says_so(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    def edit(document: dict[str, Any]) -> None:
        document.update(answer=None, logits=None, skipped="too big for this machine")

    report, log = gate(edited(inputs, tmp_path, "reference", "reference.json", edit), tmp_path / "out")
    skipped = {check["name"] for check in report["checks"] if check["reason"] == "too big for this machine"}
    assert skipped == {"mean KL divergence", "top-1 agreement", "logit error at memory=normal, precision=high"}
    assert "not run" in log.notes[0]


def test_a_crashing_product_is_a_failed_stage_and_no_crash_of_ours(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(inputs["tokenizer"], folder)
    file = folder / "tokenizer.mtok"
    file.write_bytes(crashing(file.read_bytes(), "!"))
    with pytest.raises(StageFailed, match="the engine"):
        gate({**inputs, "tokenizer": folder}, tmp_path / "out")


def test_bits_without_limits_are_the_requests_mistake(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"add verify\.thresholds\.16"):
        gate(inputs, tmp_path / "out", thresholds={"4": {}})
