"""A split LoRA against Hugging Face's model with the same change merged into its weights; switching at run time."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from pipeline.errors import StageFailed
from pipeline.mnn.converter import Converter
from pipeline.mnn.dump import read_net
from pipeline.mnn.link import link, rewrite
from pipeline.mnn.rewrite.low_rank import LowRank
from pipeline.mnn.runner import Engine
from pipeline.mnn.skeleton import build_skeleton
from tests.mnn.handmade import linear_weights, write_fp16_weights, write_onnx

IDS = [1, 5, 100, 256, 30, 40, 77, 257, 12]
RANK = 6


def _adapter(model: Qwen3ForCausalLM, seed: int) -> dict[str, LowRank]:
    """Every linear but the output head is changed, visibly."""
    random = np.random.default_rng(seed)
    shapes = {name: tuple(matrix.shape) for name, matrix in linear_weights(model).items() if name != "lm_head"}
    return {
        name: LowRank(
            random.standard_normal((RANK, columns)).astype(np.float32) * 0.1,
            random.standard_normal((rows, RANK)).astype(np.float32) * 0.2,
        )
        for name, (rows, columns) in shapes.items()
    }


def _merged(model: Qwen3ForCausalLM, adapter: dict[str, LowRank]) -> np.ndarray:
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in adapter.items():
            changed.get_submodule(name).weight += torch.from_numpy(change.up @ change.down)
        return changed(torch.tensor([IDS])).logits[0].numpy()


@pytest.fixture(scope="module")
def folder(product: Path, model: Qwen3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product with two adapters beside its base."""
    work = tmp_path_factory.mktemp("lora")
    folder = Path(shutil.copytree(product, work / "product"))
    build_skeleton(write_onnx(model, work / "a.onnx"), work / "skeleton.json", work / "work", True)
    weights = write_fp16_weights(linear_weights(model), work / "llm.mnn.weight")
    converter = Converter(work / "log")
    for seed, name in ((1, "lora.mnn"), (2, "other.mnn")):
        adapter = _adapter(model, seed)
        link(work / "skeleton.json", weights, folder, work / "work", converter, True, adapter=adapter, name=name)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(folder) as running:
        yield running


def test_split_equals_merged(engine: Engine, model: Qwen3ForCausalLM) -> None:
    expected = _merged(model, _adapter(model, 1))
    engine.select("lora.mnn")
    found = engine.logits(IDS)
    assert np.abs(found - expected).max() < 3e-5
    assert np.abs(expected - _merged(model, {})).max() > 1  # so that the test can fail


def test_switching_there_and_back(engine: Engine, model: Qwen3ForCausalLM) -> None:
    truths = {"": _merged(model, {}), "lora.mnn": _merged(model, _adapter(model, 1)),
              "other.mnn": _merged(model, _adapter(model, 2))}  # fmt: skip
    for name in ("lora.mnn", "", "other.mnn", "lora.mnn", "other.mnn", ""):
        engine.select(name)
        assert np.abs(engine.logits(IDS) - truths[name]).max() < 3e-5


def test_each_has_a_cache_of_its_own(engine: Engine, model: Qwen3ForCausalLM) -> None:
    engine.select("lora.mnn")
    engine.prefill(IDS[:5])
    engine.select("")
    engine.prefill([9, 9, 9])
    engine.select("lora.mnn")
    rows = [engine.step(token) for token in IDS[5:]]
    assert np.abs(np.stack(rows) - _merged(model, _adapter(model, 1))[5:]).max() < 3e-5


def test_base_a_b_a_base_release(folder: Path, model: Qwen3ForCausalLM) -> None:
    """The order of MNN's own documentation; a released adapter can be loaded again, and the base stays as it was."""
    truths = {"": _merged(model, {}), "lora.mnn": _merged(model, _adapter(model, 1)),
              "other.mnn": _merged(model, _adapter(model, 2))}  # fmt: skip
    with Engine(folder) as engine:
        before = engine.logits(IDS)
        for name in ("lora.mnn", "other.mnn", "lora.mnn", ""):
            engine.select(name)
            assert np.abs(engine.logits(IDS) - truths[name]).max() < 3e-5
        engine.release("lora.mnn")
        assert engine.loaded == {"other.mnn"}
        engine.select("other.mnn")
        engine.release("other.mnn")
        assert engine.adapter == ""
        assert np.array_equal(engine.logits(IDS), before)
        engine.select("lora.mnn")
        assert np.abs(engine.logits(IDS) - truths["lora.mnn"]).max() < 3e-5
        for name, message in (("other.mnn", "is not loaded"), ("", "the base cannot be released")):
            with pytest.raises(StageFailed, match=message):
                engine.release(name)


def test_two_adapters_at_once_in_two_processes(folder: Path, model: Qwen3ForCausalLM) -> None:
    with (
        Engine(folder, adapter="lora.mnn") as one,
        Engine(folder, adapter="other.mnn") as two,
        ThreadPoolExecutor(2) as pool,
    ):
        found = list(pool.map(lambda engine: engine.logits(IDS), (one, two)))
    for seed, logits in zip((1, 2), found, strict=True):
        assert np.abs(logits - _merged(model, _adapter(model, seed))).max() < 3e-5


THREADS = """
import importlib, json, os, sys, threading
import numpy as np
folder, out, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
base = importlib.import_module("MNN.llm").create(folder + "/config.json")._c_obj
assert base.load()
adapted = []
for name in ("lora.mnn", "other.mnn"):
    adapted.append(base.create_lora(name))  # they share one configuration: load() takes the file named last
    assert adapted[-1].load()
base.set_config(json.dumps({"all_logits": True}))
rows = [[], []]
def run(number):
    for _ in range(10):
        adapted[number].reset()
        rows[number].append(np.array(adapted[number].forward(ids).read(), np.float32)[0])
threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
for thread in threads: thread.start()
for thread in threads: thread.join()
np.save(out, np.stack([np.stack(one) for one in rows]))
os._exit(0)
"""


def test_two_adapters_at_once_in_two_threads(folder: Path, model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    """What the wheel's raw objects can do in one process (the engine holds Python's lock while it computes)."""
    command = [sys.executable, "-c", THREADS, str(folder), str(tmp_path / "rows.npy"), json.dumps(IDS)]
    subprocess.run(command, check=True, timeout=60, capture_output=True, cwd=tmp_path)
    rows = np.load(tmp_path / "rows.npy")
    assert rows.shape[:2] == (2, 10)
    for seed, found in zip((1, 2), rows, strict=True):
        assert np.abs(found - _merged(model, _adapter(model, seed))).max() < 3e-5


def test_it_can_be_chosen_at_the_start(folder: Path, model: Qwen3ForCausalLM) -> None:
    with Engine(folder, adapter="other.mnn") as engine:
        assert np.abs(engine.logits(IDS) - _merged(model, _adapter(model, 2))).max() < 3e-5


@pytest.mark.parametrize("name", ["nothing.mnn", "../product/lora.mnn", "/etc/passwd"])
def test_files_that_are_no_adapter_never_reach_native_code(engine: Engine, name: str) -> None:
    with pytest.raises(StageFailed, match="is missing"):
        engine.select(name)
    engine.select("")
    assert engine.logits([1]).shape == (1, 300)


def test_an_adapter_for_other_linears_is_named(folder: Path, model: Qwen3ForCausalLM) -> None:
    work = folder.parent
    weights = write_fp16_weights(linear_weights(model), work / "llm.mnn.weight")
    stray = LowRank(np.zeros((2, 4), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(StageFailed, match=r"1 only in the second \(model\.layers\.9\.q_proj\)"):
        rewrite(read_net(work / "skeleton.json"), weights, {"model.layers.9.q_proj": stray})


def test_an_adapter_of_another_shape_is_named(folder: Path, model: Qwen3ForCausalLM) -> None:
    work = folder.parent
    weights = write_fp16_weights(linear_weights(model), work / "llm.mnn.weight")
    wrong = LowRank(np.zeros((2, 4), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(StageFailed, match=r"lm_head is \[4, 2\] x \[2, 4\], the linear \[300, 64\]"):
        rewrite(read_net(work / "skeleton.json"), weights, {"lm_head": wrong})
