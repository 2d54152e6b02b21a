"""The graph stage as a whole: what layout.json says, that outputs repeat, and one line for every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from safetensors.torch import load_file, save_file

from pipeline.build.config import subset
from pipeline.errors import UserError
from pipeline.graph.export import export
from pipeline.graph.tracer import Options
from pipeline.stages import graph
from tests.graph import coverage
from tests.graph.checkpoints import edit_json, write_checkpoint
from tests.graph.product import Silent, recipe

coverage.quiet()


def _export(checkpoint: Path, **options: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
    out = checkpoint.parent / "out"
    out.mkdir(exist_ok=True)
    exported = export(checkpoint, out, Options(**options))
    return onnx.load(exported.onnx), exported.layout


def _count(model: onnx.ModelProto, op: str) -> int:
    return sum(node.op_type == op for node in model.graph.node)


def test_llama(tmp_path: Path) -> None:
    model, layout = _export(write_checkpoint("llama_tied_bias", tmp_path))
    facts = {key: layout[key] for key in layout if key not in ("linears", "embedding")}
    assert facts == {
        "format": 1, "model_type": "llama", "hidden_size": 128, "vocab_size": 1000, "num_layers": 2,
        "attention_type": "full", "sliding_window": 0, "recurrent": False, "is_mrope": False,
        "max_position_embeddings": 512,
        "lm_head": "lm_head", "tied": True, "tables": [], "approximations": [], "notes": [],
    }  # fmt: skip
    part = {"rows": None, "index": None, "transpose": False, "deinterleave": None, "scale": 1.0}
    embedding = [{"tensor": "model.embed_tokens.weight", **part}]
    assert layout["embedding"] == {"parts": embedding, "rows": 1000, "columns": 128}
    linears = {entry["name"]: entry for entry in layout["linears"]}
    assert linears["lm_head"]["parts"] == embedding
    assert linears["model.layers.1.self_attn.k_proj"] == {
        "name": "model.layers.1.self_attn.k_proj", "out_features": 64, "in_features": 128, "layer": 1, "keep": False,
        "parts": [{"tensor": "model.layers.1.self_attn.k_proj.weight", **part}],
        "bias": [{"tensor": "model.layers.1.self_attn.k_proj.bias", **part}],
    }  # fmt: skip
    assert len(linears) == _count(model, "FakeLinear") == 2 * 7 + 1
    assert _count(model, "FusedRoPE") == _count(model, "FusedAttention") == 2
    assert _count(model, "Transpose") == _count(model, "Expand") == 0


def test_the_engines_inputs_and_outputs(tmp_path: Path) -> None:
    model, _ = _export(write_checkpoint("llama", tmp_path))
    inputs = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert inputs == {
        "input_ids": ["sequence", 1, 128],
        "attention_mask": [1, 1, "sequence", "sequence"],
        "position_ids": [1, "sequence"],
        "logits_index": [1],
    }
    assert [value.name for value in model.graph.output] == ["logits", "hidden_states"]


def test_no_weight_is_in_the_graph(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path)
    model, _ = _export(checkpoint)
    sizes = [list(tensor.dims) for tensor in model.graph.initializer]
    assert [128, 128] not in sizes
    assert max(len(size) for size in sizes) <= 2


def test_interleaved_heads_and_fused_linears_are_done_in_the_weights(tmp_path: Path) -> None:
    model, layout = _export(write_checkpoint("glm", tmp_path))
    linears = {entry["name"]: entry for entry in layout["linears"]}
    q = linears["model.layers.0.self_attn.q_proj"]["parts"][0]
    assert q["deinterleave"] == [4, 32, 16]
    assert linears["model.layers.0.self_attn.v_proj"]["parts"][0]["deinterleave"] is None
    up = linears["model.layers.0.mlp.gate_up_proj.1"]
    assert (up["out_features"], up["parts"][0]["rows"]) == (192, [192, 384])
    assert _count(model, "Slice") == 1, "only the rows that logits are wanted for"


def test_sliding_layers(tmp_path: Path) -> None:
    _, layout = _export(write_checkpoint("gemma3", tmp_path))
    assert (layout["attention_type"], layout["sliding_window"]) == ("mix", 16)


def test_experts_and_their_router(tmp_path: Path) -> None:
    model, layout = _export(write_checkpoint("qwen3_moe", tmp_path))
    linears = {entry["name"]: entry for entry in layout["linears"]}
    assert linears["model.layers.1.mlp.gate"]["keep"]
    names = [name for name in linears if name.startswith("model.layers.1.mlp.experts.7.")]
    assert names == [
        f"model.layers.1.mlp.experts.7.{part}" for part in ("gate_up_proj.0", "gate_up_proj.1", "down_proj")
    ]
    assert linears[names[0]]["parts"][0]["tensor"] == "model.layers.1.mlp.experts.7.gate_proj.weight"
    assert _count(model, "MoE") == 2
    template = onnx.load(tmp_path / "out" / "expert-0.onnx")
    assert _count(template, "FakeLinear") == 3


def test_learned_positions_are_a_table(tmp_path: Path) -> None:
    model, layout = _export(write_checkpoint("gpt2", tmp_path))
    assert [table["name"] for table in layout["tables"]] == ["transformer.wpe"]
    assert (layout["tables"][0]["rows"], layout["tables"][0]["columns"]) == (512, 128)
    assert _count(model, "Table") == 1
    transposed = {entry["parts"][0]["transpose"] for entry in layout["linears"] if entry["name"] != "lm_head"}
    assert transposed == {True}


def test_without_c4_rope_is_plain_operations(tmp_path: Path) -> None:
    model, layout = _export(write_checkpoint("llama", tmp_path), fuse_rope=False)
    assert _count(model, "FusedRoPE") == 0
    assert _count(model, "Neg") == 4
    assert layout["notes"] == ["RoPE left as plain operations"]


def test_the_limit_of_a_changing_rope_is_the_models(tmp_path: Path) -> None:
    _, layout = _export(write_checkpoint("phi3_longrope", tmp_path))
    assert layout["max_position_embeddings"] == 128
    assert layout["notes"] == ["longrope RoPE as it is for sequences of up to 128 tokens"]


_SCRIPT = """
import sys
from pathlib import Path
from pipeline.build.config import subset
from pipeline.stages import graph
from tests.graph.product import Silent, recipe
for checkpoint, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    graph.run(subset(recipe(), graph.STAGE.config), {"checkpoint": Path(checkpoint)}, Path(out), Silent())
"""


def test_the_same_bytes_in_any_process_and_folder(tmp_path: Path) -> None:
    arguments = []
    for family in ("gemma3", "qwen3_moe"):
        folder = tmp_path / family
        checkpoint = write_checkpoint(family, folder)
        for out in (folder / "here", folder / "a longer name"):
            out.mkdir()
        graph.run(subset(recipe(), graph.STAGE.config), {"checkpoint": checkpoint}, folder / "here", Silent())
        arguments += [checkpoint, folder / "a longer name"]
    environment = {"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", _SCRIPT, *arguments], check=True, env=environment, cwd=tmp_path)
    for family in ("gemma3", "qwen3_moe"):
        _compare(tmp_path / family / "here", tmp_path / family / "a longer name", str(tmp_path))


def _compare(here: Path, there: Path, path: str) -> None:
    names = sorted(file.name for file in here.iterdir())
    assert {"llm.onnx", "layout.json", "skeleton.json"} <= set(names)
    for name in names:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
        assert path.encode() not in (here / name).read_bytes()


def _refusal(checkpoint: Path) -> str:
    with pytest.raises(UserError) as caught:
        _export(checkpoint)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_an_unknown_model_type(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path)
    edit_json(checkpoint / "config.json", model_type="lama")
    assert "cannot read the model's config.json" in _refusal(checkpoint)


def test_a_model_that_is_no_language_model(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 128}))
    assert "cannot build a vit model" in _refusal(checkpoint)


def test_an_unknown_rope(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path)
    edit_json(checkpoint / "config.json", rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})
    assert "spiral" in _refusal(checkpoint)


def test_a_missing_tensor(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path)
    tensors = json.loads((checkpoint / "tensors.json").read_text())["tensors"]
    del tensors["model.norm.weight"]
    edit_json(checkpoint / "tensors.json", tensors=tensors)
    assert "lacks tensors that the model needs: model.norm.weight" in _refusal(checkpoint)


def test_a_softcap(tmp_path: Path) -> None:
    line = _refusal(write_checkpoint("gemma2_softcap", tmp_path))
    assert "caps its attention scores (softcap 5)" in line
    assert "graph.allow_approximate=true" in line


@pytest.mark.parametrize("family, reason", [("bloom", "ALiBi"), ("mamba", "Mamba state")])
def test_a_family_that_cannot_work(family: str, reason: str, tmp_path: Path) -> None:
    assert reason in _refusal(write_checkpoint(family, tmp_path))


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_the_trace_alone_would_refuse_it_too(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.graph.export.check_model_type", lambda model_type: None)
    assert _refusal(write_checkpoint(family, tmp_path))


def test_a_norm_weight_that_is_not_in_the_small_file(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("llama", tmp_path)
    values = load_file(checkpoint / "small.safetensors")
    del values["model.norm.weight"]
    save_file(values, checkpoint / "small.safetensors")
    assert "uses its weight model.norm.weight [128] other than in a matrix product" in _refusal(checkpoint)


def test_the_stage_reads_no_weights() -> None:
    (files,) = (edge.files for edge in graph.STAGE.inputs if edge.stage == "checkpoint")
    assert {name for name in files if not name.endswith(".json")} == {"small.safetensors", "*.py"}
    assert [edge.stage for edge in graph.STAGE.inputs] == ["checkpoint", "pair"]  # neither holds a matrix
    assert not any(path.startswith("quant") for path in graph.STAGE.config)
