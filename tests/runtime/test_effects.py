"""Every key whose effect can be seen is seen: written into config.json, on the real engine, against its absence."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.mnn.converter import Converter
from pipeline.mnn.link import link
from pipeline.mnn.skeleton import build_skeleton
from pipeline.runtime.keys import KEYS
from pipeline.runtime.unseen import UNSEEN
from pipeline.weights import plain
from pipeline.weights.hashed import HashedFile
from pipeline.weights.layout import Layout, Linear, Part
from pipeline.weights.matrix import Encoder
from pipeline.weights.precision import Precision
from pipeline.weights.writer import write
from tests.mnn.conftest import model, product
from tests.mnn.handmade import linear_weights, tiny_config, write_onnx, write_product
from tests.runtime.native import experiment
from tests.weights.helpers import checkpoint, dequantised

__all__ = ["model", "product"]

IDS = [5, 9, 100, 7, 33, 61, 250, 12, 88, 41, 7, 7, 9, 100, 5, 60, 61, 62, 63, 64]
X86 = platform.machine() == "x86_64"

ROOT = Path(__file__).resolve().parents[2]
SEEN = {
    "tests/runtime/test_effects.py::test_reuse_kv": ("reuse_kv",),
    "tests/runtime/test_effects.py::test_attention_mode": ("attention_mode",),
    "tests/runtime/test_effects.py::test_kvcache_mmap": ("kvcache_mmap",),
    "tests/runtime/test_effects.py::test_use_mmap_and_tmp_path": ("use_mmap", "tmp_path", "mmap_size"),
    "tests/runtime/test_effects.py::test_use_cached_mmap": ("use_cached_mmap",),
    "tests/runtime/test_effects.py::test_thread_num": ("thread_num",),
    "tests/runtime/test_effects.py::test_memory_and_dynamic_option": ("memory", "dynamic_option"),
    "tests/runtime/test_effects.py::test_chunk_and_all_logits": ("chunk", "chunk_limits", "all_logits"),
    "tests/runtime/test_effects.py::test_max_new_tokens_and_timeout": ("max_new_tokens", "timeout_ms"),
    "tests/runtime/test_effects.py::test_templates_and_their_context": (
        *("use_template", "system_prompt", "jinja", "context_file"),
    ),
    "tests/runtime/test_effects.py::test_a_file_elsewhere_in_the_product": (
        *("llm_model", "llm_weight", "tokenizer_file", "embedding_file"),
    ),
    "tests/runtime/test_effects.py::test_base_dir_and_llm_config": ("base_dir", "llm_config"),
    "tests/runtime/test_effects.py::test_the_models_own_keys": ("attention_mask", "hidden_size", "attn_scale"),
    "tests/runtime/test_effects.py::test_a_backend_that_is_not_there_falls_back_to_the_processor": ("backend_type",),
    "tests/runtime/test_effects.py::test_penalties_bias_and_ban": (
        *("repetition_penalty", "penalty", "presence_penalty", "frequency_penalty", "penalty_window"),
        *("penalty_sampler", "n_gram", "ngram_factor", "logit_bias", "banned_tokens"),
    ),
    "tests/runtime/test_effects.py::test_older_names_of_the_sampler": ("topK", "topP", "minP", "tfsZ"),
    "tests/use/test_sampler.py::test_the_engines_own_sampler_draws_alike": (
        *("sampler_type", "mixed_samplers", "temperature", "top_k", "top_p", "min_p", "tfs_z", "typical"),
    ),
    "tests/stages/test_config.py::test_the_engine_reads_quantised_rows_from_the_head": ("tie_embeddings",),
    "tests/graph/test_families.py::test_family": ("attention_type", "sliding_window"),
}


def test_every_key_is_seen_or_said_not_to_be() -> None:
    seen = [name for names in SEEN.values() for name in names]
    assert len(seen) == len(set(seen))
    assert set(seen) | set(UNSEEN) == set(KEYS)
    assert not set(seen) & set(UNSEEN)
    for place in SEEN:
        file, _, function = place.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text("utf-8"), place


@pytest.fixture
def copy(product: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(product, tmp_path / "product"))


@pytest.fixture(scope="module")
def four_bits(
    product: Path, model: Qwen3ForCausalLM, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray]:
    """A 4-bit product, and Hugging Face's logits of IDS with the same dequantised weights."""
    folder = Path(shutil.copytree(product, tmp_path_factory.mktemp("int4") / "product"))
    weights = {name: values.detach().numpy() for name, values in linear_weights(model).items()}
    linears = tuple(Linear(name, *values.shape, (Part(name),)) for name, values in weights.items())
    precisions = {linear.name: Precision(4, 32) for linear in linears}
    encoder = Encoder(checkpoint(**weights), plain)
    (folder / "llm.mnn.weight").unlink(missing_ok=True)
    with HashedFile(folder / "llm.mnn.weight") as file:
        written = write(file, Layout(linears), precisions, encoder, lambda done: None)
    build_skeleton(write_onnx(model, folder / "a.onnx"), folder / "skeleton.json", folder / "work", True)
    (folder / "llm.mnn").unlink()
    (folder / "work2").mkdir()
    link(folder / "skeleton.json", written, folder, folder / "work2", Converter(folder / "work2.log"), True)
    blob = (folder / "llm.mnn.weight").read_bytes()
    same = Qwen3ForCausalLM(tiny_config()).eval()
    same.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, part in same.named_modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.copy_(torch.from_numpy(dequantised(blob, written["linears"][name])))
        return folder, same(torch.tensor([IDS])).logits[0].float().numpy()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 MB of weights: enough to be seen in a process's memory."""
    values = tiny_config().to_dict() | {"hidden_size": 512, "intermediate_size": 3072}
    torch.manual_seed(0)
    return write_product(Qwen3ForCausalLM(Qwen3Config(**values)).eval(), tmp_path_factory.mktemp("wide") / "product")


def _error(found: Any, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def _mean_error(found: Any, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).mean() / np.abs(expected).mean())


def test_reuse_kv(copy: Path) -> None:
    """Two questions: with it the second one's cache begins with the first one's."""
    told = experiment(copy, """
for reuse in (False, True):
    model = load(reuse_kv=reuse, **NO_STOP)
    told[str(reuse)] = []
    for text in ("Hello there", "More"):
        model.response(text, 0, 4)
        told[str(reuse)].append([model.get_context()["prompt_len"], model.get_current_history()])
""")  # fmt: skip
    (first, whole), (second, alone) = told["False"]
    assert (whole, alone) == (first + 4, second + 4)
    assert told["True"][1] == [second, whole + alone]


def test_attention_mode(copy: Path) -> None:
    """8-bit caches answer a little otherwise; the values' file is a quarter as large where both are 8 bits."""
    told = experiment(copy, f"""
for mode in (None, 0, 8, 9, 10):
    told[str(mode)] = logits({IDS}, attention_mode=mode)
for mode in (8, 10):
    model = load(attention_mode=mode, kvcache_mmap=True, tmp_path=str(folder))
    model.forward({IDS} * 20)
    sizes = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith(".v")]
    told[f"bytes{{mode}}"] = sum(int(end, 16) - int(start, 16) for start, end in sizes)
    del model
""")  # fmt: skip
    base = np.asarray(told["None"])
    assert _error(told["8"], base) == 0
    assert _error(told["0"], base) < 1e-5
    assert 1e-3 < _error(told["9"], base) < 0.1
    assert 1e-3 < _error(told["10"], base) < 0.1
    assert told["9"] != told["10"]
    assert told["bytes10"] < 0.5 * told["bytes8"]


def test_kvcache_mmap(copy: Path) -> None:
    """The cache lies in two files of each layer below tmp_path, while it is in use."""
    told = experiment(copy, f"""
(folder / "cache").mkdir()
for mapped in (True, False):
    model = load(kvcache_mmap=mapped, tmp_path=str(folder / "cache"))
    model.forward({IDS})
    told[str(mapped)] = sorted(path.suffix for path in (folder / "cache").iterdir())
    del model
""")  # fmt: skip
    assert told == {"True": [".k", ".k", ".v", ".v"], "False": []}


def test_use_mmap_and_tmp_path(wide: Path, tmp_path: Path) -> None:
    """Weights move from the process's own memory into mapped files of mmap_size in tmp_path."""
    told = {}
    for mapped in (False, True):
        told[mapped] = experiment(wide, f"""
before = kilobytes("RssAnon")
folder_of_files = pathlib.Path({str(tmp_path)!r})
model = load(use_mmap={mapped}, tmp_path=str(folder_of_files), mmap_size=64, hidden_size=512)
model.forward({IDS})
told["own"] = kilobytes("RssAnon") - before
told["sizes"] = sorted(path.stat().st_size for path in folder_of_files.glob("*.static"))
""")  # fmt: skip
    assert told[False]["sizes"] == []
    assert told[True]["sizes"][-1] == 64 << 20
    assert told[False]["own"] - told[True]["own"] > 15_000


def test_use_cached_mmap(wide: Path, tmp_path: Path) -> None:
    """The files of the first load serve the second, or are thrown away after the first."""
    told = experiment(wide, f"""
for cached in (True, False):
    place = pathlib.Path({str(tmp_path)!r}) / str(cached)
    place.mkdir()
    model = load(use_mmap=True, use_cached_mmap=cached, tmp_path=str(place), mmap_size=64)
    model.forward({IDS})
    del model
    told[str(cached)] = sorted(path.name for path in place.iterdir())
""")  # fmt: skip
    assert told["True"] != []
    assert told["True"] != told["False"]


def test_thread_num(copy: Path) -> None:
    told = experiment(copy, f"""
for threads in (1, 3):
    before = kilobytes("Threads")
    model = load(thread_num=threads)
    model.forward({IDS})
    told[str(threads)] = kilobytes("Threads") - before
""")  # fmt: skip
    assert told == {"1": 0, "3": 2}


@pytest.mark.skipif(not X86, reason="other processors have fp16 arithmetic")
def test_precision_changes_nothing_on_x86(copy: Path) -> None:
    told = experiment(copy, f"""
for precision in ("low", "normal", "high"):
    told[precision] = logits({IDS}, precision=precision)
""")  # fmt: skip
    assert told["low"] == told["normal"] == told["high"]


def test_memory_and_dynamic_option(four_bits: tuple[Path, np.ndarray]) -> None:
    """memory low rounds activations, per block (option 2) with far less error; normal and high are exact."""
    folder, truth = four_bits
    told = experiment(folder, f"""
for memory in ("low", "normal", "high"):
    told[memory] = logits({IDS}, memory=memory)
for option in (0, 2):
    told[str(option)] = logits({IDS}, memory="low", dynamic_option=option)
""")  # fmt: skip
    errors = {name: _mean_error(found, truth) for name, found in told.items()}
    assert errors["normal"] < 1e-4
    assert errors["high"] < 1e-4
    assert errors["low"] == errors["0"] > 1e-3
    assert errors["2"] < 0.8 * errors["0"]


def test_chunk_and_all_logits(copy: Path) -> None:
    """Without all_logits the last token's only. 20 tokens in runs of at most 8: the last run's only.

    The engine reads both keys of the runs when set_config is called, whatever with; from the files alone they are idle.
    """
    told = experiment(copy, f"""
whole = logits({IDS})
told["rows"] = len(whole)
told["last"] = len(rows(load(), {IDS}))
for name, value in (("chunk", 8), ("chunk_limits", [8, 1])):
    model = load(all_logits=True, **{{name: value}})
    told[name] = [len(rows(model, {IDS}))]
    model.set_config("{{}}")
    model.reset()
    part = rows(model, {IDS})
    told[name] += [len(part), float(np.abs(part - whole[-len(part):]).max())]
""")  # fmt: skip
    assert (told["rows"], told["last"]) == (20, 1)
    assert told["chunk"][:2] == [20, 4]
    assert told["chunk"][2] < 1e-4
    assert told["chunk_limits"][:2] == [20, 8]


def test_chunk_limits_that_do_not_add_up_answer_wrongly_on_cpu(copy: Path) -> None:
    """20 tokens: 5 × 4 is right, 8 + 8 + 4 with runs of 8 or 1 is padded. What docs/runtime.md warns of."""
    told = experiment(copy, f"""
for limits in (None, [4, 1], [8, 1]):
    model = load(chunk_limits=limits, sampler_type="greedy")
    model.set_config("{{}}")
    model.generate_init()
    told[str(limits)] = [int(token) for token in model.generate({IDS}, 8)]
""")  # fmt: skip
    assert told["[4, 1]"] == told["None"]
    assert told["[8, 1]"] != told["None"]


def test_max_new_tokens_and_timeout(copy: Path) -> None:
    told = experiment(copy, """
for limit in (3, 7):
    model = load(max_new_tokens=limit, **NO_STOP)
    model.response("Hello there", 0, -1)
    told[str(limit)] = len(model.get_context()["output_tokens"])
model = load(timeout_ms=200, **NO_STOP)
model.response("Hello there", 0, 4000)
told["stopped"] = len(model.get_context()["output_tokens"])
""")  # fmt: skip
    assert (told["3"], told["7"]) == (3, 7)
    assert 0 < told["stopped"] < 4000


def test_templates_and_their_context(copy: Path) -> None:
    """use_template off: the bare text; system_prompt: a message before; jinja.context and context_file: names."""
    (copy / "facts.json").write_text('{"word": "file"}')
    told = experiment(copy, """
def prompt(**keys):
    model = load(**NO_STOP, **keys)
    model.response("Hi", 0, 1)
    return model.get_context()["prompt_len"], model.apply_chat_template("Hi")
told["plain"] = prompt()
told["bare"] = prompt(use_template=False)
told["system"] = prompt(system_prompt="Be brief.")
told["context"] = prompt(jinja={"chat_template": "{{ word }}", "context": {"word": "here"}})
told["file"] = prompt(jinja={"chat_template": "{{ word }}"}, context_file="facts.json")
""")  # fmt: skip
    assert told["bare"][0] == 2 < told["plain"][0]
    assert told["system"][1].startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert told["context"][1] == "here"
    assert told["file"][1] == "file"


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("llm_model", "llm.mnn"),
        ("llm_weight", "llm.mnn.weight"),
        ("tokenizer_file", "tokenizer.txt"),
        ("embedding_file", "embeddings_bf16.bin"),
    ],
)
def test_a_file_elsewhere_in_the_product(copy: Path, key: str, file: str) -> None:
    """Moved and renamed: only the key finds it, and then all is as before."""
    (copy / "parts").mkdir()
    told = experiment(copy, f"""
told["before"] = logits({IDS})
(folder / {file!r}).rename(folder / "parts" / "other")
model = load()
told["lost"] = model is None or not rows(model, {IDS}).size
told["after"] = logits({IDS}, {key}="parts/other")
""" if key != "embedding_file" else f"""
told["before"] = logits({IDS})
(folder / {file!r}).rename(folder / "parts" / "other")
told["lost"] = True  # the engine would crash at the first token: the runner refuses such a product
told["after"] = logits({IDS}, {key}="parts/other")
""")  # fmt: skip
    assert told["lost"]
    assert told["after"] == told["before"]


def test_base_dir_and_llm_config(copy: Path) -> None:
    """All files in another folder; hidden_size comes from the named llm_config.json."""
    told = experiment(copy, f"""
told["before"] = logits({IDS})
(folder / "moved").mkdir()
for name in ("llm.mnn", "llm.mnn.weight", "tokenizer.txt", "embeddings_bf16.bin"):
    (folder / name).rename(folder / "moved" / name)
(folder / "llm_config.json").rename(folder / "moved" / "model.json")
config = json.loads((folder / "config.json").read_text())
config |= {{"base_dir": str(folder / "moved") + "/", "llm_config": "model.json", "all_logits": True}}
(folder / "there.json").write_text(json.dumps(config))
model = llm.create(str(folder / "there.json"))._c_obj
told["loaded"] = bool(model.load())
told["after"] = rows(model, {IDS})
""")  # fmt: skip
    assert told["loaded"]
    assert told["after"] == told["before"]


def test_the_models_own_keys(copy: Path) -> None:
    """attention_mask=int lets the graph look ahead, a wrong hidden_size answers nothing, attn_scale replaces 1/sqrt."""
    told = experiment(copy, f"""
told["right"] = logits({IDS})
told["int"] = logits({IDS}, attention_mask="int")
told["scale"] = logits({IDS}, attn_scale=0.5)
told["same scale"] = logits({IDS}, attn_scale=32 ** -0.5)
model = load(hidden_size=32, **NO_STOP)
model.response("Hi", 0, 4)
told["narrow"] = model.get_context()["output_tokens"]
""")  # fmt: skip
    right = np.asarray(told["right"])
    assert _error(told["int"], right) > 0.1
    assert _error(told["scale"], right) > 0.1
    assert _error(told["same scale"], right) < 1e-5
    assert told["narrow"] == []


@pytest.mark.skipif(not X86, reason="a phone's wheel may have the device")
def test_a_backend_that_is_not_there_falls_back_to_the_processor(copy: Path) -> None:
    told = experiment(copy, f"""
told["cpu"] = logits({IDS})
told["opencl"] = logits({IDS}, backend_type="opencl")
""")  # fmt: skip
    assert _error(told["opencl"], np.asarray(told["cpu"])) < 1e-5
    assert "Can't Find type" in (copy / "log").read_text(errors="replace")


def test_penalties_bias_and_ban(copy: Path) -> None:
    """Forty greedy tokens. A token that came before is not chosen again, unless "penalty" is not even listed."""
    told = experiment(copy, f"""
def answer(*samplers, **keys):
    model = load(**dict({{"mixed_samplers": list(samplers), "sampler_type": "mixed"}}, **keys))
    model.generate_init()
    return [int(token) for token in model.generate({IDS}, 40)]
told["none"] = answer("penalty", "greedy")
told["unlisted"] = answer("greedy", repetition_penalty=5.0, presence_penalty=50.0)
for name, strength in (("repetition_penalty", 9.0), ("penalty", 9.0), ("presence_penalty", 50.0),
                       ("frequency_penalty", 50.0)):
    told[name] = answer("penalty", "greedy", **{{name: strength}})
told["sampler"] = answer(sampler_type="penalty", penalty_sampler="greedy", repetition_penalty=9.0)
told["window"] = answer("penalty", "greedy", presence_penalty=50.0, penalty_window=1)
told["little"] = answer("penalty", "greedy", repetition_penalty=1.05)
told["factor"] = answer("penalty", "greedy", repetition_penalty=1.05, ngram_factor=50.0, n_gram=8)
told["one gram"] = answer("penalty", "greedy", repetition_penalty=1.05, ngram_factor=50.0, n_gram=1)
told["bias"] = answer("greedy", logit_bias={{"42": 1000.0}})
told["banned"] = answer("greedy", banned_tokens=sorted(set(told["none"])))
""")  # fmt: skip
    assert told["unlisted"] == told["none"]
    assert len(set(told["none"])) < 40
    for name in ("presence_penalty", "frequency_penalty"):
        assert len({*IDS, *told[name]}) == len(set(IDS)) + 40
    assert len(set(told["repetition_penalty"])) > len(set(told["none"]))
    assert told["penalty"] == told["sampler"] == told["repetition_penalty"]
    assert told["window"] != told["presence_penalty"]
    assert told["factor"] != told["little"] == told["one gram"]
    assert set(told["bias"]) == {42}
    assert not set(told["banned"]) & set(told["none"])


def test_older_names_of_the_sampler(copy: Path) -> None:
    """So narrow that one token is left: with each of them sampling is greedy."""
    told = experiment(copy, f"""
def answer(**keys):
    model = load(**dict({{"temperature": 1.0, "top_k": None}}, **keys))
    model.generate_init()
    return [int(token) for token in model.generate({IDS}, 20)]
told["greedy"] = answer(sampler_type="greedy")
told["wide"] = answer(sampler_type="mixed", mixed_samplers=["temperature"], temperature=5.0)
for kind, name, value in (("topK", "topK", 1), ("topP", "topP", 1e-6), ("min_p", "minP", 1.0), ("tfs", "tfsZ", 0.0)):
    told[name] = answer(sampler_type="mixed", mixed_samplers=[kind, "temperature"], **{{name: value}})
""")  # fmt: skip
    assert told["wide"] != told["greedy"]
    for name in ("topK", "topP", "minP", "tfsZ"):
        assert told[name] == told["greedy"], name
