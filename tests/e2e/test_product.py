"""The main job, as a person runs it: `doit export` on SmolLM2-135M, and what the product says and does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.mnn.runner import Engine
from tests.e2e.conftest import freeze
from tests.e2e.workshop import MODEL, Result, Workshop

NAME = "smollm2-135m-int4"
FILES = {
    "llm.mnn",
    "llm.mnn.weight",
    "llm.mnn.json",
    "tokenizer.mtok",
    "llm_config.json",
    "config.json",
    "onnx/llm.onnx",
    "manifest.json",
}
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def product(workshop: Workshop, int4: Result) -> Path:
    return workshop.product(NAME)


def test_every_file_is_there_and_the_path_is_printed(product: Path, int4: Result) -> None:
    found = {path.relative_to(product).as_posix() for path in product.rglob("*") if path.is_file()}
    assert found >= FILES
    assert f"artifacts/{NAME}" in int4.out


def test_the_stages_their_state_and_the_verification_are_printed(int4: Result) -> None:
    assert {"graph", "weights", "link", "selfcheck", "reference", "quality"} <= int4.built()
    assert "checks passed" in int4.out


def test_the_graph_has_no_more_operators_than_it_needs(product: Path) -> None:
    """30 layers: MNN's own exporter makes 1,133 of them."""
    assert len(json.loads((product / "llm.mnn.json").read_text())["oplists"]) <= 413


def test_the_product_answers_on_the_engine(product: Path) -> None:
    with Engine(product) as engine:
        assert "Paris" in engine.response(QUESTION, 48)


def test_the_manifest_holds_sources_tools_digests_and_the_report(workshop: Workshop, product: Path) -> None:
    manifest = workshop.manifest(NAME)
    assert manifest["tools"]["MNN"] == "3.6.1"
    (source,) = manifest["sources"]["source"]["files"].values()
    assert len(source["sha256"]) == 64
    assert set(manifest["files"]) >= FILES - {"manifest.json"}
    precisions = manifest["weights"]["weights"]
    assert len(precisions) == 30 * 7 + 1
    assert precisions["lm_head"]["bits"] == 8
    query = precisions["model.layers.0.self_attn.q_proj"]
    assert (query["bits"], query["block"], query["algorithm"]) == (4, 64, "rtn")
    assert 0.01 < query["relative_error"] < 0.2
    report = manifest["verification"]["report"]
    assert report["passed"] is True
    names = {check["name"] for check in report["checks"] if check["passed"]}
    assert names >= {
        "mean KL divergence",
        "top-1 agreement",
        "texts tokenised otherwise",
        "chat template, conversation 1",
    }
    assert 0 < report["figures"]["logits"]["kld_mean"] < 1.0


def test_the_embedding_is_tied_as_in_the_model(product: Path) -> None:
    assert not list(product.glob("embeddings_*"))
    assert json.loads((product / "llm_config.json").read_text())["tie_embeddings"]


def test_the_same_command_again_does_nothing(workshop: Workshop, product: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in product.rglob("*")}
    again = workshop.export(MODEL, "quant=int4")
    assert again.code == 0
    assert not again.built()
    assert {path: path.stat().st_mtime_ns for path in product.rglob("*")} == before


def test_int8_after_int4_reuses_graph_and_reference(workshop: Workshop, product: Path) -> None:
    result = workshop.export(MODEL, "quant=int8")
    assert result.code == 0, result.err
    assert "weights" in result.built()
    assert not result.built() & {"graph", "selfcheck", "reference", "checkpoint", "tokenizer"}
    int4, int8 = (workshop.manifest(f"smollm2-135m-{quant}") for quant in ("int4", "int8"))
    assert int4["files"]["onnx/llm.onnx"] == int8["files"]["onnx/llm.onnx"]
    figures = [manifest["verification"]["report"]["figures"]["logits"] for manifest in (int4, int8)]
    assert figures[1]["kld_mean"] < figures[0]["kld_mean"] / 10


def test_fp16_gives_hugging_faces_tokens_and_logits(workshop: Workshop, product: Path) -> None:
    result = workshop.export(MODEL, "quant=fp16")
    assert result.code == 0, result.err
    report = workshop.manifest("smollm2-135m-fp16")["verification"]["report"]
    passed = {check["name"]: check["value"] for check in report["checks"] if check["passed"]}
    assert passed["greedy tokens"] == "equal"
    assert passed["logit error at memory=normal, precision=high"] <= 1e-3


def test_a_refused_product_leaves_no_folder_and_keeps_the_report(workshop: Workshop, product: Path) -> None:
    result = workshop.export(MODEL, "quant=int4", "verify.thresholds.4.max_kld=0.01", "name=refused")
    assert result.code == 1
    assert "mean KL divergence" in result.error
    assert "limit 0.01" in result.error
    assert not workshop.product("refused").exists()
    kept = [Path(word) for word in (result.out + result.err).split() if word.endswith("report.json") and "/" in word]
    assert kept, result.out
    report = json.loads(kept[0].read_text("utf-8"))
    assert [check["name"] for check in report["checks"] if check["passed"] is False] == ["mean KL divergence"]


def test_a_refused_product_leaves_the_former_one_untouched(workshop: Workshop, product: Path) -> None:
    before = {path: path.read_bytes() for path in product.rglob("*") if path.is_file()}
    result = workshop.export(MODEL, "quant=int4", "verify.thresholds.4.min_top1=0.999", f"name={NAME}")
    assert result.code == 1
    assert "top-1 agreement" in result.error
    assert {path: path.read_bytes() for path in product.rglob("*") if path.is_file()} == before


def test_no_export_installs_anything(int4: Result, installed: str) -> None:
    assert freeze() == installed


def test_no_process_of_an_export_imports_mnns_tools(workshop: Workshop, int4: Result, tmp_path: Path) -> None:
    """`MNN.tools` installs a telemetry package when it is imported: a hook in every Python process reports imports.

    The converter's child is not among them, as it starts without `site`; see tests/mnn/test_converter.py.
    """
    hook = tmp_path / "hook"
    hook.mkdir()
    seen = tmp_path / "imports"
    (hook / "sitecustomize.py").write_text(
        "import sys\n"
        "def note(event, arguments):\n"
        "    if event == 'import' and arguments[0].split('.')[0] == 'MNN':\n"
        f"        open({str(seen)!r}, 'a').write(arguments[0] + '\\n')\n"
        "sys.addaudithook(note)\n"
    )
    paths = f"{hook}:{Path(__file__).resolve().parents[2]}"
    result = workshop.export(MODEL, "quant=int4", "quant.block=32", "name=telemetry", PYTHONPATH=paths)
    assert result.code == 0, result.err
    imported = set(seen.read_text().split())
    assert "MNN.expr" in imported, "the hook did not see the engine"
    assert not [name for name in imported if name.startswith("MNN.tools")]
    assert "MNN.tools" not in sys.modules
