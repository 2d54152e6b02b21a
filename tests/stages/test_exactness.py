"""Checkpoints that are quantised already, each through every stage: the product holds their weights, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.build.config import subset
from pipeline.errors import StageFailed
from pipeline.mnn.runner import Engine
from pipeline.stages import exactness, reference
from pipeline.verify import huggingface, metrics, selfcheck
from pipeline.verify.product import EXACT, assemble
from tests.checkpoint.quantised_models import write_quantised
from tests.verify.helpers import MODEL, TARGET, Notes, verify_options, write_model

SOURCE = {"name": "source", "algorithm": "source", "bits": 8, "block": 32, "lm_bits": 8, "scale_bits": 32}
SHIPPED = selfcheck.SHIPPED
Q_PROJ = "model.layers.0.self_attn.q_proj"


def recipe(**quant: Any) -> dict[str, Any]:
    whole = selfcheck.fp16_recipe(MODEL, TARGET, {"allow_approximate": False})
    whole["quant"] |= {**SOURCE, **quant}
    return {**whole, "verify": verify_options()}


def export(source: Path, root: Path, **quant: Any) -> dict[str, Path]:
    """Every stage but the gates, in this process."""
    whole = recipe(**quant)
    selfcheck.build(source, root, whole)
    names = ("checkpoint", *SHIPPED, "graph", "reference")
    folders = {"source": source, **{name: root / name for name in names}}
    folders["reference"].mkdir()
    log = Notes()
    reference.run(subset(whole, reference.STAGE.config), folders, folders["reference"], log)
    (root / "notes").write_text("\n".join(log.notes))
    return folders


def exact(folders: dict[str, Path], out: Path, **quant: Any) -> dict[str, dict[str, str]]:
    out.mkdir()
    exactness.run(subset(recipe(**quant), exactness.STAGE.config), folders, out, Notes())
    told: dict[str, dict[str, str]] = json.loads((out / "exactness.json").read_text())
    return told


@pytest.fixture(scope="module", params=["gptq", "gptq8", "awq", "compressed-tensors"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(method: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp(method)
    write_quantised(root / "model", method)
    return export(root / "model", root)


def test_the_product_holds_the_sources_weights_exactly(built: dict[str, Path], method: str, tmp_path: Path) -> None:
    told = exact(built, tmp_path / "out")
    kinds = {"gptq": "GPTQ4", "gptq8": "GPTQ8", "awq": "AWQ4", "compressed-tensors": "CT_INT4"}
    body = {name: facts for name, facts in told.items() if name != "lm_head"}
    assert len(body) == 7
    assert all(facts == {"source": kinds[method], "stored": "exact"} for facts in body.values())
    assert told["lm_head"]["stored"] == "quantised anew"


def agreement(folders: dict[str, Path], folder: Path) -> metrics.Agreement:
    """The product on the engine, float activations, against the reference stage's logits."""
    ids = json.loads((folders["reference"] / "reference.json").read_text())["evaluation"]["sequences"][0]
    with Engine(assemble([folders[name] for name in SHIPPED], folder), {**EXACT, "thread_num": 1}) as engine:
        return metrics.compare_logits(np.load(folders["reference"] / "logits.npy")[0], engine.logits(ids))


def test_the_engine_computes_what_hugging_face_does_with_these_weights(built: dict[str, Path], tmp_path: Path) -> None:
    """Only the lm_head was rounded (to eight bits)."""
    assert agreement(built, tmp_path / "product").kld_mean < 1e-3
    assert "as this project's readers dequantise them" in (built["source"].parent / "notes").read_text()


def flip_storage(net: dict[str, Any]) -> None:
    """Scales of one width announced as the other."""
    for node in net["oplists"]:
        quant = (node.get("main") or {}).get("quanParameter") or {}
        if node["name"] == Q_PROJ:
            quant["scaleStorage"] = "FP32" if quant["scaleStorage"] == "FP16" else "FP16"


def drop_zeros(net: dict[str, Any]) -> None:
    """Symmetric scales read as pairs, or pairs as symmetric scales."""
    for node in net["oplists"]:
        if node["name"] == Q_PROJ:
            quant = node["main"]["quanParameter"]
            quant["readType"] = 0 if quant["readType"] else 1


@pytest.mark.parametrize("damage", [flip_storage, drop_zeros])
def test_scales_that_are_read_otherwise_are_found(
    built: dict[str, Path], tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    net = json.loads((built["link"] / "llm.mnn.json").read_text())
    damage(net)
    (tmp_path / "link").mkdir()
    (tmp_path / "link/llm.mnn.json").write_text(json.dumps(net))
    with pytest.raises(StageFailed, match=Q_PROJ):
        exact({**built, "link": tmp_path / "link"}, tmp_path / "out")


def test_float32_scales_in_float16_slots_are_found(built: dict[str, Path], tmp_path: Path) -> None:
    """MNN's own GPTQ importer at its default flags: sizes agree, its own assertion passes, the weights are nonsense."""
    entry = json.loads((built["weights"] / "weights.json").read_text())["linears"][Q_PROJ]
    shutil.copytree(built["weights"], tmp_path / "weights")
    offset, size, alpha, *_ = entry["external"]
    with (tmp_path / "weights/llm.mnn.weight").open("r+b") as file:
        file.seek(offset + size)
        values = np.frombuffer(file.read(alpha), f"<f{entry['scale_bits'] // 8}")
        other = np.float32 if entry["scale_bits"] == 16 else np.float16
        file.seek(offset + size)
        file.write(np.resize(np.frombuffer(values.astype(other).tobytes(), np.uint8), alpha).tobytes())
    with pytest.raises(StageFailed, match=f"{Q_PROJ} does not hold the source's weights"):
        exact({**built, "weights": tmp_path / "weights"}, tmp_path / "out")


def test_one_wrong_code_is_found_and_named(built: dict[str, Path], tmp_path: Path) -> None:
    entry = json.loads((built["weights"] / "weights.json").read_text())["linears"][Q_PROJ]
    shutil.copytree(built["weights"], tmp_path / "weights")
    columns, bits = entry["in_features"], entry["bits"]
    place = entry["external"][0] + entry["header_bytes"] + (5 * columns + 6) * bits // 8
    with (tmp_path / "weights/llm.mnn.weight").open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (16 if bits == 4 else 1)]))  # the lowest bit of the first code of the byte
    with pytest.raises(StageFailed, match=f"{Q_PROJ} does not hold .* row 5, input 6 is off"):
        exact({**built, "weights": tmp_path / "weights"}, tmp_path / "out")


def test_scales_are_rounded_only_if_asked(tmp_path: Path) -> None:
    """Zero points times float16 scales need more digits than float16 has."""
    write_quantised(tmp_path / "model", "gptq")
    folders = export(tmp_path / "model", tmp_path, scale_bits=16)
    told = exact(folders, tmp_path / "asked", scale_bits=16)
    assert told[Q_PROJ]["stored"] == "float16 scales, as asked"
    with pytest.raises(StageFailed, match="does not hold the source's weights"):
        exact(folders, tmp_path / "not asked")


def test_fp8_is_dequantised_and_quantised_anew(tmp_path: Path) -> None:
    truth = write_quantised(tmp_path / "model", "fp8")
    model = huggingface.load_model(tmp_path / "model", MODEL)
    torch.testing.assert_close(model.get_submodule(Q_PROJ).weight, torch.from_numpy(truth[Q_PROJ]), rtol=0, atol=0)
    folders = export(tmp_path / "model", tmp_path, algorithm="rtn")
    assert agreement(folders, tmp_path / "product").kld_mean < 0.01
    tensors = json.loads((folders["checkpoint"] / "tensors.json").read_text())["tensors"]
    assert tensors[f"{Q_PROJ}.weight"]["dtype"] == "F8_E4M3"


def test_gptq_beside_its_base(tmp_path: Path) -> None:
    """model.gptq_path: the product is held against the GPTQ weights, which are near the base's and not equal."""
    source = write_model(tmp_path / "model", num_hidden_layers=1)
    truth = write_quantised(source / "gptq", "gptq", source)
    folders = export(source, tmp_path)
    assert exact(folders, tmp_path / "exact")[Q_PROJ] == {"source": "GPTQ4", "stored": "exact"}
    assert "the reference has the gptq weights" in (tmp_path / "notes").read_text()
    assert agreement(folders, tmp_path / "product").kld_mean < 1e-3
    model = huggingface.load_model(source, MODEL)
    np.testing.assert_array_equal(model.get_submodule(Q_PROJ).weight.detach().numpy(), truth[Q_PROJ])
    shutil.rmtree(source / "gptq")
    base = huggingface.load_model(source, MODEL).get_submodule(Q_PROJ).weight.detach().numpy()
    assert 0 < np.abs(base - truth[Q_PROJ]).max() < 0.1


def test_when_the_stage_applies() -> None:
    assert exactness.applies(recipe())
    assert not exactness.applies(recipe(algorithm="rtn"))
    assert exactness.applies(recipe(algorithm="rtn", rules=[{"pattern": "q_proj", "algorithm": "source"}]))
    assert not exactness.applies({**recipe(), "verify": {"mode": "off"}})
