"""The reference stage writes what transformers says, and refuses or skips what the machine cannot hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.stages import reference as stage
from pipeline.verify import huggingface, text
from tests.verify.helpers import MODEL, QUESTION, Notes, verify_options, write_model

ADAPTER = {"mode": "none", "weight": 1.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("reference") / "source")


def run(source: Path, out: Path, parameters: int = 100_000, **verify: Any) -> tuple[dict[str, Any], Notes]:
    checkpoint = out.parent / f"{out.name}-checkpoint"
    checkpoint.mkdir()
    tensors = {"table": {"shape": [256, max(1, parameters // 256)], "dtype": "F32"}}
    (checkpoint / "tensors.json").write_text(json.dumps({"tensors": tensors}))
    out.mkdir()
    log = Notes()
    config = {"model": MODEL, "adapter": ADAPTER, "verify": verify_options(**verify)}
    stage.run(config, {"source": source, "checkpoint": checkpoint}, out, log)
    return json.loads((out / "reference.json").read_text()), log


@pytest.fixture(scope="module")
def written(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("written") / "out"
    return run(source, out)[0], out


def test_logits_are_transformers_own(written: tuple[dict[str, Any], Path], source: Path) -> None:
    told, out = written
    logits = np.load(out / "logits.npy")
    assert logits.shape == (2, 24, 256)
    assert logits.dtype == np.float32
    model = huggingface.load_model(source, MODEL)
    for ids, rows in zip(told["evaluation"]["sequences"], logits, strict=True):
        np.testing.assert_allclose(rows, huggingface.sequence_logits(model, ids), atol=1e-5)
    np.testing.assert_allclose(
        np.load(out / "logits_fp16.npy"), logits[0], atol=1e-5
    )  # these weights are exact in fp16
    assert told["rounded"] is False


def test_sequences_are_consecutive_tokens_of_the_evaluation_text(
    written: tuple[dict[str, Any], Path], source: Path
) -> None:
    tokenizer = huggingface.load_tokenizer(source)
    joined = [token for ids in written[0]["evaluation"]["sequences"] for token in ids]
    assert text.evaluation_text().startswith(tokenizer.decode(joined, clean_up_tokenization_spaces=False))
    assert written[0]["evaluation"]["sha256"] == text.text_digest(text.evaluation_text())


def test_answer_and_texts_are_transformers_own(written: tuple[dict[str, Any], Path], source: Path) -> None:
    told, _ = written
    tokenizer, model = huggingface.load_tokenizer(source), huggingface.load_model(source, MODEL)
    prompt = tokenizer(QUESTION)["input_ids"]
    assert told["prompt"] == prompt
    assert told["answer"]["ids"] == huggingface.greedy(model, tokenizer, prompt, [], 12).ids
    assert [entry["ids"] for entry in told["texts"]] == [tokenizer(line)["input_ids"] for line in text.MULTILINGUAL]


def test_a_model_without_chat_template_says_so(written: tuple[dict[str, Any], Path]) -> None:
    assert {entry["reason"] for entry in written[0]["templates"]} == {"the model has no chat template"}


def test_bytes_are_the_same_on_the_next_run(written: tuple[dict[str, Any], Path], source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "again")
    for name in ("reference.json", "logits.npy", "logits_fp16.npy"):
        assert (tmp_path / "again" / name).read_bytes() == (written[1] / name).read_bytes(), name


def test_a_model_above_the_limit_is_described_without_weights(source: Path, tmp_path: Path) -> None:
    told, log = run(source, tmp_path / "out", parameters=5_000_000_000)
    assert told["answer"] is None
    assert told["logits"] is None
    assert "more than verify.reference_memory_gb=8" in told["skipped"]
    assert log.notes == [told["skipped"]]
    assert told["texts"]
    assert not (tmp_path / "out/logits.npy").exists()


def test_a_model_within_the_limit_but_not_in_the_memory_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"is free → free memory, or set verify\.reference_memory_gb="):
        run(source, tmp_path / "out", parameters=10**13, reference_memory_gb=1e9)


def test_more_text_than_there_is_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="asks for 900 × 4096 → ask for fewer"):
        run(source, tmp_path / "out", sequences=900, length=4096)


@pytest.mark.parametrize("parameters", [0.135, 7.0, 0.0])
def test_the_schedulers_estimate_is_bounded_by_the_limit(parameters: float) -> None:
    recipe = {"model": {"parameters": parameters}, "verify": {"reference_memory_gb": 8.0}}
    estimate = stage.expected_memory(recipe)
    assert (parameters or 0.5) * 4e9 < estimate or estimate == 8e9
    assert math.isclose(estimate, min(8e9, (parameters or 0.5) * 4e9 + (800 << 20)))


def test_the_key_does_not_depend_on_the_quant() -> None:
    assert not any(path.startswith(("quant", "target", "embedding")) for path in stage.STAGE.config)
    assert "verify.thresholds" not in stage.STAGE.config
