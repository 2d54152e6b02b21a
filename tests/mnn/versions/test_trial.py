"""One product on one engine (here the installed one): what it answers, and every way in which it may not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from pipeline.mnn.runner import Engine
from pipeline.mnn.versions.trial import Questions, Trial, attempt

HERE = Path(sys.executable)
QUESTIONS = Questions(prompt=[256, 72, 105, 257], evaluation=[5, 9, 100, 7, 33, 61], max_new_tokens=6, threads=1)


@pytest.fixture
def copy(product: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(product, tmp_path / "copy"))


def _try(folder: Path, timeout: float = 60.0) -> Trial:
    return attempt("3.6.1", HERE, folder / "config.json", QUESTIONS, timeout)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_product_that_runs(product: Path, model: Qwen3ForCausalLM) -> None:
    trial = _try(product)
    assert (trial.step, trial.failure) == ("done", "")
    with torch.no_grad():
        truth = model(torch.tensor([list(QUESTIONS.evaluation)])).logits[0].float().numpy()
    assert trial.logits is not None
    assert np.abs(trial.logits - truth).max() < 1e-3 * np.abs(truth).max()
    with Engine(product, {"thread_num": 1}) as engine:
        assert trial.text == engine.detokenize(engine.generate(QUESTIONS.prompt, 6))


def test_a_graph_that_does_not_load(copy: Path) -> None:
    (copy / "llm.mnn").write_bytes((copy / "llm.mnn").read_bytes()[:1000])
    trial = _try(copy)
    assert trial.step == "load"
    assert trial.failure
    assert trial.logits is None


def test_a_crash_is_named_by_its_signal(product: Path) -> None:
    """The engine divides by the length of the prompt."""
    nothing = Questions([], QUESTIONS.evaluation, 6, threads=1)
    trial = attempt("3.6.1", HERE, product / "config.json", nothing, 60)
    assert (trial.step, trial.failure) == ("answer", "SIGFPE")
    assert trial.text is None


def test_a_model_of_another_width_gives_no_logits(copy: Path) -> None:
    _edit(copy / "llm_config.json", hidden_size=32)
    trial = _try(copy)
    assert trial.failure
    assert trial.logits is None


def test_a_time_limit(product: Path) -> None:
    trial = _try(product, 0.05)
    assert trial.failure == "no end within 0.05 s"


def test_a_python_without_an_engine(product: Path, tmp_path: Path) -> None:
    import venv

    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    trial = attempt("0.0.0", tmp_path / "empty" / "bin" / "python", product / "config.json", QUESTIONS, 60)
    assert trial.step == "import"
    assert "No module named 'MNN'" in trial.failure


def test_nothing_is_written_into_the_product(copy: Path) -> None:
    before = sorted(copy.rglob("*"))
    _try(copy)
    assert sorted(copy.rglob("*")) == before
