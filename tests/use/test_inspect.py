"""What inspect says against what the tests' product was made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import Qwen3ForCausalLM

from pipeline.mnn.runner.product import open_product
from pipeline.use.inspect import _precision, describe, main
from tests.mnn.handmade import linear_weights


def test_the_facts(product: Path, model: Qwen3ForCausalLM) -> None:
    facts = describe(open_product(product))
    parameters = sum(matrix.numel() for matrix in linear_weights(model).values())
    assert facts["parameters_by_precision"] == {"fp16": parameters}
    assert (facts["vocabulary"], facts["hidden_size"]) == (300, 64)
    assert facts["weights"] == {"bytes": parameters * 2, "bytes_referred_to": parameters * 2}
    assert facts["tokenizer"] == {"file": "tokenizer.txt", "kind": "huggingface", "stop_ids": [257]}
    assert facts["embedding"] == "separate, embeddings_bf16.bin"
    assert facts["files"]["llm.mnn"] == (product / "llm.mnn").stat().st_size
    assert facts["operators"]["Attention"] == 2


def test_json_is_the_same(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(product), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(describe(open_product(product))))


def test_the_page_names_files_and_precision(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(product)]) == 0
    out = capsys.readouterr().out
    assert "llm.mnn.weight" in out
    assert "weights in fp16" in out
    assert "no manifest" in out


def test_what_the_export_proved(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    checks = [{"name": "mean KL divergence", "value": 0.28, "passed": True}, {"name": "x", "value": 1, "passed": False}]
    checks += [{"name": "y", "value": None, "passed": None, "reason": "no room"}]
    told = {"verification": {"verified": True, "mode": "fast", "report": {"checks": checks}}}
    (folder / "manifest.json").write_text(json.dumps(told))
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "verified (mode fast)\n  ok  mean KL divergence: 0.28\n  NO  x: 1\n  --  y: not run: no room" in out


def test_which_engines_it_is_for(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    engines = {"3.4.0": {"verdict": "does not load", "failure": "SIGSEGV"}}
    engines |= {"3.6.1": {"verdict": "right", "kld_mean": 0.28}}
    told = {"engine": {"oldest": "3.6.0", "built_with": ["MNN_BUILD_LLM", "MNN_METAL"]}, "engines": engines}
    (folder / "manifest.json").write_text(json.dumps(told))
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "for engines from 3.6.0 on, built with MNN_BUILD_LLM, MNN_METAL\n" in out
    assert "  3.4.0: does not load, SIGSEGV\n  3.6.1: right, KL 0.2800\n" in out


@pytest.mark.parametrize(
    ("quantisation", "expected"),
    [
        ({"type": 1, "aMaxOrBits": 4, "readType": 64}, "int4 block 32"),
        ({"type": 1, "aMaxOrBits": 8, "readType": 32}, "int8"),
        ({"type": 1, "aMaxOrBits": 4, "readType": 0}, "int4 symmetric"),
        ({"type": 3}, "fp16"),
        ({}, "fp32"),
    ],
)
def test_precision_in_words(quantisation: dict[str, int], expected: str) -> None:
    main_part = {"common": {"inputCount": 64, "outputCount": 32}, "quanParameter": quantisation}
    assert _precision(main_part) == expected
