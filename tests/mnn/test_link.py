"""A whole small model through the link: the engine's logits against Hugging Face's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from pipeline.errors import StageFailed
from pipeline.mnn.converter import Converter
from pipeline.mnn.link import check_layout, fix_uuid, link
from pipeline.mnn.runner import Engine
from pipeline.mnn.skeleton import build_skeleton
from tests.mnn.handmade import linear_weights, write_fp16_weights, write_onnx

IDS = [1, 5, 100, 256, 30, 40, 77, 257, 12, 299, 0, 64]


def _logits(model: Qwen3ForCausalLM, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def test_logits_equal_hugging_faces(product: Path, model: Qwen3ForCausalLM) -> None:
    with Engine(product) as engine:
        assert np.abs(engine.logits(IDS) - _logits(model, IDS)).max() < 2e-5


def test_norms_are_folded_and_layouts_fused(product: Path) -> None:
    kinds = [op["type"] for op in json.loads((product / "llm.mnn.json").read_text())["oplists"]]
    assert kinds.count("RoPE") == 2
    # Two per layer and the final one: the four q and k norms are inside the RoPE ops.
    assert kinds.count("LayerNorm") == 5
    # 15 linears have 30 conversions before the C4 pass.
    assert kinds.count("ConvertTensor") < 10
    assert "Extra" not in kinds


def test_the_json_beside_it_is_exact(product: Path, model: Qwen3ForCausalLM) -> None:
    operators = json.loads((product / "llm.mnn.json").read_text())["oplists"]
    tables = {op["name"]: op["main"] for op in operators if op["type"] == "Const" and "float32s" in op["main"]}
    expected = model.model.rotary_emb(torch.zeros(1), torch.arange(512)[None])[1][0].numpy()
    assert np.array_equal(np.float32(tables["sin.table"]["float32s"]).reshape(expected.shape), expected)
    rope = next(op["main"] for op in operators if op["type"] == "RoPE")
    assert np.array_equal(
        np.float32(rope["q_norm"]["gamma"]), model.model.layers[0].self_attn.q_norm.weight.detach().numpy()
    )
    assert np.float32(rope["q_norm"]["epsilon"]) == np.float32(1e-7)


def _link(model: Qwen3ForCausalLM, folder: Path) -> Path:
    folder.mkdir()
    work = folder / "work"
    build_skeleton(write_onnx(model, folder / "a.onnx"), folder / "skeleton.json", work, True)
    weights = write_fp16_weights(linear_weights(model), folder / "llm.mnn.weight")
    operators = link(folder / "skeleton.json", weights, folder, work, Converter(work / "log"), True)
    assert operators == len(json.loads((folder / "llm.mnn.json").read_text())["oplists"])
    return folder


def test_it_is_deterministic(product: Path, model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    again = _link(model, tmp_path / "elsewhere")
    for name in ("llm.mnn", "llm.mnn.json"):
        assert (again / name).read_bytes() == (product / name).read_bytes()


def test_rope_without_c4_is_refused(model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    """The engine would load it and fail in the first forward."""
    build_skeleton(write_onnx(model, tmp_path / "a.onnx"), tmp_path / "skeleton.json", tmp_path / "work", False)
    weights = write_fp16_weights(linear_weights(model), tmp_path / "llm.mnn.weight")
    with pytest.raises(StageFailed, match=r"C4 fusion only.*fuse_c4=false"):
        link(tmp_path / "skeleton.json", weights, tmp_path, tmp_path / "work", Converter(tmp_path / "log"), False)


def test_the_uuid_depends_on_the_content_only(product: Path, tmp_path: Path) -> None:
    content = (product / "llm.mnn").read_bytes()
    (tmp_path / "same.mnn").write_bytes(content)
    fix_uuid(tmp_path / "same.mnn")
    assert (tmp_path / "same.mnn").read_bytes() == content


def _layout(*names: str) -> dict[str, list[dict[str, str]]]:
    return {"linears": [{"name": name} for name in names], "tables": []}


def test_layout_and_weights_that_agree_pass() -> None:
    check_layout(_layout("a", "b"), {"linears": {"b": {}, "a": {}}, "tables": {}})


def test_layout_and_weights_that_differ_are_named() -> None:
    with pytest.raises(StageFailed, match=r"differ in linears: 1 only in the first \(a\); 1 only in the second \(c\)"):
        check_layout(_layout("a", "b"), {"linears": {"b": {}, "c": {}}})


def test_tables_are_compared_too() -> None:
    with pytest.raises(StageFailed, match=r"differ in tables: 1 only in the second \(wpe\)"):
        check_layout(_layout(), {"linears": {}, "tables": {"wpe": {}}})
