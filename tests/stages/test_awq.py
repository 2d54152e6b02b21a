"""The awq stage between the real ones, on a small random Llama with uneven norms, against Hugging Face's own layers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.calibrate.text import sequences
from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.norm import divide_norms
from pipeline.stages import awq, checkpoint, graph, link, places, weights
from pipeline.verify.huggingface import load_tokenizer
from pipeline.weights.calibrated import load_importance
from pipeline.weights.folds import Folds, load_folds
from tests.stages.placing import placed
from tests.stages.test_calibrated import CONFIG as GPTQ
from tests.stages.test_weights import Recorder
from tests.weights.helpers import dequantised

HEAD_DIM, SHARING = 16, 2  # query heads per value head
LAYER = "model.layers.{}."


def config(**quant: Any) -> dict[str, Any]:
    return {**GPTQ, "quant": {**GPTQ["quant"], "algorithm": "awq", "bits": 3, **quant}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("awq")
    folders = {name: root / name for name in ("source", "checkpoint", "graph", "places", "awq")}
    for folder in folders.values():
        folder.mkdir()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.15))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.exp(1.5 * torch.randn(64)))
    model.save_pretrained(folders["source"])
    tokenizer = Tokenizer(models.WordLevel({chr(33 + number): number for number in range(160)}, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="!").save_pretrained(folders["source"])
    for stage in (checkpoint, graph, places, awq):
        stage.run(config(), folders, folders[stage.STAGE.name], Recorder())
    return folders


@pytest.fixture(scope="module")
def truth(folders: dict[str, Path]) -> Any:
    return LlamaForCausalLM.from_pretrained(folders["source"], dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def folds(folders: dict[str, Path]) -> Folds:
    return load_folds(folders["awq"])


def scaled(truth: Any, folds: Folds) -> Any:
    """The same model with the scales moved, by AWQ's formulas and not by our code."""
    model = copy.deepcopy(truth)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            s = {name.removeprefix(LAYER.format(number)): torch.from_numpy(scale)
                 for name, scale in folds.inputs.items() if name.startswith(LAYER.format(number))}
            layer.input_layernorm.weight /= s["self_attn.q_proj"]
            layer.post_attention_layernorm.weight /= s["mlp.gate_proj"]
            layer.self_attn.v_proj.weight /= s["self_attn.o_proj"].view(-1, SHARING, HEAD_DIM)[:, 0].reshape(-1, 1)
            layer.mlp.up_proj.weight /= s["mlp.down_proj"][:, None]
            for name, scale in s.items():
                layer.get_submodule(name).weight *= scale
    return model


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(0, 160, (4, 40), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return torch.as_tensor(model(ids).logits)


def test_scaled_weights_compute_the_same(truth: Any, folds: Folds) -> None:
    expected = logits(truth)
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(logits(scaled(truth, folds)), expected, rtol=1e-5, atol=tolerance)
    assert all(scale.max() > 1.5 * scale.min() for scale in folds.inputs.values())  # and something was moved at all


def test_every_linear_but_the_head_has_its_place(folders: dict[str, Path], folds: Folds) -> None:
    names = {linear["name"] for linear in json.loads((folders["graph"] / "layout.json").read_text())["linears"]}
    assert set(folds.inputs) == names - {"lm_head"}
    divided = ("self_attn.v_proj", "mlp.up_proj")
    assert set(folds.outputs) == {LAYER.format(i) + name for i in (0, 1) for name in divided}
    assert len(folds.norms) == 4
    for i in (0, 1):
        q, k, v = (folds.inputs[f"{LAYER.format(i)}self_attn.{x}_proj"] for x in "qkv")
        assert np.array_equal(q, k) and np.array_equal(q, v)
        by_head = folds.inputs[f"{LAYER.format(i)}self_attn.o_proj"].reshape(-1, SHARING, HEAD_DIM)
        assert np.array_equal(by_head[:, 0], by_head[:, 1])  # the query heads of one value head


def test_importance_is_that_of_the_divided_inputs(truth: Any, folds: Folds, folders: dict[str, Path]) -> None:
    """What hooks on Hugging Face's scaled model see of the calibration text."""
    found, model, seen = load_importance(folders["awq"]), scaled(truth, folds), {}
    for name in found:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0][0].square().mean(0)))
    with torch.no_grad():
        for ids in sequences(load_tokenizer(folders["source"]), config()["quant"]["calibration"]):
            model(torch.tensor([ids]))
    for name, square in found.items():
        np.testing.assert_allclose(square, torch.stack(seen[name]).mean(0), rtol=1e-3, atol=1e-6)


def built(folders: dict[str, Path], out: Path, **quant: Any) -> dict[str, np.ndarray]:
    names = [name for name in folders if name != "awq" or quant.get("algorithm", "awq") == "awq"]
    out.mkdir()
    log = Recorder()
    inputs = placed(config(**quant), {name: folders[name] for name in names}, out, log)
    weights.run(config(**quant), inputs, out, log)
    entries = json.loads((out / "weights.json").read_text())["linears"]
    blob = (out / weights.WEIGHT_FILE).read_bytes()
    return {name: dequantised(blob, entry) for name, entry in entries.items()}


def test_rounded_scaled_weights_are_nearer_to_the_model(
    folders: dict[str, Path], truth: Any, folds: Folds, tmp_path: Path
) -> None:
    expected = torch.log_softmax(logits(truth), -1)
    divergence = {}
    for algorithm in ("awq", "mse"):
        model = scaled(truth, folds) if algorithm == "awq" else copy.deepcopy(truth)
        with torch.no_grad():
            for name, matrix in built(folders, tmp_path / algorithm, algorithm=algorithm).items():
                model.get_submodule(name).weight.copy_(torch.from_numpy(matrix))
        found = torch.log_softmax(logits(model), -1)
        divergence[algorithm] = float((expected.exp() * (expected - found)).sum(-1).mean())
    assert divergence["awq"] < 0.8 * divergence["mse"]


def test_eight_bits_of_scaled_weights_are_the_scaled_weights(
    folders: dict[str, Path], truth: Any, folds: Folds, tmp_path: Path
) -> None:
    model = scaled(truth, folds)
    for name, matrix in built(folders, tmp_path / "8", bits=8).items():
        expected = model.get_submodule(name).weight.detach().numpy()
        assert np.linalg.norm(matrix - expected) < 0.03 * np.linalg.norm(expected)


def test_the_linked_graph_has_the_divided_gammas(
    folders: dict[str, Path], truth: Any, folds: Folds, tmp_path: Path
) -> None:
    out = tmp_path / "link"
    out.mkdir()
    link.run(config(), folders, out, Recorder())
    operators = json.loads((out / "llm.mnn.json").read_text())["oplists"]
    gammas = [one["main"]["gamma"] for one in operators if one["type"] == "LayerNorm"]
    model = scaled(truth, folds).model
    norms = [norm for layer in model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    expected = [norm.weight.detach().numpy() for norm in (*norms, model.norm)]
    np.testing.assert_allclose(np.array(gammas), np.array(expected), rtol=1e-6)


def test_a_norm_that_is_not_there_is_an_error() -> None:
    with pytest.raises(StageFailed, match="no norm 'n' over 2 channels"):
        divide_norms([{"name": "n", "type": "LayerNorm", "main": {"gamma": [1.0]}}], {"n": np.ones(2, np.float32)})
