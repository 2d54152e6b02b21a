"""statistics, sensitivity and gptq between the real checkpoint, graph and weights stages, on a tiny random Llama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.stages import checkpoint, gptq, graph, sensitivity, statistics, weights
from pipeline.weights.calibrated import load_importance, load_solutions
from tests.stages.test_weights import Recorder
from tests.weights.helpers import dequantised

CONFIG: dict[str, Any] = {
    "model": {"trust_remote_code": False, "name": "tiny", "gptq_path": "", "allow_pickle": False},
    "adapter": {"mode": "none", "weight": 1.0, "path": ""},
    "graph": {"allow_approximate": False},
    "target": {"fast_bits": [4, 8, 16], "graph": {"fuse_c4": True}, "mnnconvert": ""},
    "quant": {
        "algorithm": "gptq", "bits": 4, "block": 32, "lm_bits": 8, "lm_block": None, "symmetric": False,
        "scale_bits": 16, "act_order": True, "rules": [], "target_bytes": None, "target_bpw": None, "max_kld": None,
        "calibration": {"text": "pydoc", "sequences": 2, "length": 48, "seed": 0},
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stages")
    folders = {name: root / name for name in ("source", "checkpoint", "graph", "statistics", "sensitivity", "gptq")}
    for folder in folders.values():
        folder.mkdir()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
    LlamaForCausalLM(config).save_pretrained(folders["source"])
    vocabulary = {chr(33 + number): number for number in range(160)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="!").save_pretrained(folders["source"])
    for stage in (checkpoint, graph, statistics, sensitivity, gptq):
        stage.run(CONFIG, folders, folders[stage.STAGE.name], Recorder())
    return folders


def built(folders: dict[str, Path], out: Path, names: tuple[str, ...], **quant: Any) -> dict[str, Any]:
    inputs = {name: folders[name] for name in ("source", "checkpoint", "graph", *names)}
    weights.run({**CONFIG, "quant": {**CONFIG["quant"], **quant}}, inputs, out, Recorder())
    return json.loads((out / "weights.json").read_text())["linears"]  # type: ignore[no-any-return]


def test_every_linear_of_the_graph_is_covered(folders: dict[str, Path]) -> None:
    names = {linear["name"] for linear in json.loads((folders["graph"] / "layout.json").read_text())["linears"]}
    assert set(load_importance(folders["statistics"])) == names
    assert set(load_importance(folders["gptq"])) == names
    assert set(load_solutions(folders["gptq"])) == names - {"lm_head"}


def test_gptq_codes_reach_the_weight_file(folders: dict[str, Path], tmp_path: Path) -> None:
    linears = built(folders, tmp_path, ("gptq",))
    blob = (tmp_path / weights.WEIGHT_FILE).read_bytes()
    for name, solution in load_solutions(folders["gptq"]).items():
        scale, zero = solution.read_scales()
        steps = solution.read_codes().astype(np.float32).reshape(len(scale), -1, 32) - 8
        expected = (steps * scale[:, :, None] + zero[:, :, None]).reshape(len(scale), -1)
        np.testing.assert_array_equal(dequantised(blob, linears[name]), expected)
    assert linears["lm_head"]["algorithm"] == "wmse" and linears["lm_head"]["bits"] == 8


def test_wmse_uses_the_statistics(folders: dict[str, Path], tmp_path: Path) -> None:
    """Less weighted error than mse, more plain error."""
    truth = LlamaForCausalLM.from_pretrained(folders["source"], dtype=torch.float32)
    importance = load_importance(folders["statistics"])
    found = {}
    for algorithm in ("wmse", "mse"):
        out = tmp_path / algorithm
        out.mkdir()
        linears = built(folders, out, ("statistics",), algorithm=algorithm)
        blob, sums = (out / weights.WEIGHT_FILE).read_bytes(), np.zeros(2)
        for name, entry in linears.items():
            square = np.square(dequantised(blob, entry) - truth.get_submodule(name).weight.detach().numpy())
            sums += (square * importance[name] / importance[name].mean()).sum(), square.sum()
        found[algorithm] = sums
    assert found["wmse"][0] < 0.995 * found["mse"][0]
    assert found["mse"][1] < found["wmse"][1]


def test_a_budget_is_kept_and_spent(folders: dict[str, Path], tmp_path: Path) -> None:
    linears = built(folders, tmp_path, ("statistics", "sensitivity"), algorithm="wmse", target_bpw=7)
    count = sum(entry["out_features"] * entry["in_features"] for entry in linears.values())
    used = 8 * sum(sum(entry["external"][1:3]) - entry["header_bytes"] for entry in linears.values()) / count
    assert 6.5 < used <= 7
    assert {entry["bits"] for entry in linears.values()} == {4, 8}
