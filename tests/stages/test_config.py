"""The `config` stage: the right keys for each engine, and the engine itself as the judge of what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.build.config import subset
from pipeline.errors import StageFailed
from pipeline.mnn.runner import Engine
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.runtime.product import check_product
from pipeline.stages import checkpoint, embedding, graph, link, places, weights
from pipeline.stages import config as stage
from tests.tiny_models import load_reference, random_ids, write_tiny_model

Floats = npt.NDArray[np.float32]

LAYOUT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "vocab_size": 49152,
    "num_layers": 30,
    "attention_type": "full",
    "sliding_window": 0,
    "is_mrope": False,
    "lm_head": "lm_head",
    "tied": True,
}
HEAD = {"external": [1000, 5000, 600, 0, 0], "header_bytes": 262, "bits": 8, "block": 64, "scale_bits": 16}
TOKENIZER = {
    "kind": "mtok",
    "file": "tokenizer.mtok",
    "chat_template": "{{ messages }}",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "stop_ids": [2],
}
SEPARATE = {"mode": "separate", "file": "embeddings_bf16.bin", "bits": 16, "rows": 49152, "columns": 576}


class Silent:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def recipe(*overrides: str) -> dict[str, Any]:
    (composed,) = compose(overrides, [SHIPPED], Path("/w"))
    return composed.config


def written(
    work: Path, *overrides: str, generation: Mapping[str, Any] | None = None, **facts: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json, llm_config.json) that the stage writes from handmade facts of the other stages."""
    files = {
        "graph": ("layout.json", {**LAYOUT, **facts.get("layout", {})}),
        "places": ("places.json", {"linears": {"lm_head": {**HEAD, **facts.get("head", {})}}}),
        "embedding": ("embedding.json", facts.get("embedding", {"mode": "tied"})),
        "tokenizer": ("tokenizer.json", {**TOKENIZER, **facts.get("tokenizer", {})}),
        "checkpoint": ("generation_config.json", generation),
    }
    inputs = {}
    for name, (file, content) in files.items():
        inputs[name] = work / name
        inputs[name].mkdir(parents=True, exist_ok=True)
        if content is not None:
            (inputs[name] / file).write_text(json.dumps(content))
    out = work / "out"
    out.mkdir(exist_ok=True)
    stage.run(subset(recipe(*overrides), stage.STAGE.config), inputs, out, Silent())
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "llm_config.json"]
    return json.loads((out / "config.json").read_text()), json.loads((out / "llm_config.json").read_text())


def test_the_default_product(tmp_path: Path) -> None:
    config, model = written(tmp_path)
    assert config == {
        "llm_model": "llm.mnn",
        "llm_weight": "llm.mnn.weight",
        "tokenizer_file": "tokenizer.mtok",
        "sampler_type": "greedy",
        "backend_type": "cpu",
        "thread_num": 2,
        "precision": "low",
        "memory": "low",
        "dynamic_option": 2,
    }
    assert model == {
        "hidden_size": 576,
        "layer_nums": 30,
        "attention_mask": "float",
        "attention_type": "full",
        "jinja": {"chat_template": "{{ messages }}", "eos": "</s>"},
        "tie_embeddings": {
            "weight_offset": 1262,
            "alpha_offset": 6000,
            "alpha_size": 600,
            "quant_bit": 8,
            "quant_block": 64,
            "alpha_dtype": "fp16",
        },
    }


def test_a_table_of_its_own(tmp_path: Path) -> None:
    config, model = written(tmp_path, embedding=SEPARATE)
    assert config["embedding_file"] == "embeddings_bf16.bin"
    assert "tie_embeddings" not in model


def test_a_model_without_a_template_has_no_jinja(tmp_path: Path) -> None:
    assert "jinja" not in written(tmp_path, tokenizer={"chat_template": ""})[1]


def test_sliding_layers(tmp_path: Path) -> None:
    model = written(tmp_path, layout={"attention_type": "mix", "sliding_window": 4096})[1]
    assert (model["attention_type"], model["sliding_window"]) == ("mix", 4096)


def test_three_rows_of_positions(tmp_path: Path) -> None:
    assert written(tmp_path, layout={"is_mrope": True})[1]["is_mrope"] is True


def test_the_models_sampling_defaults_and_a_persons_own(tmp_path: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    config, _ = written(tmp_path / "a", generation=generation)
    assert (config["temperature"], config["top_p"], config["top_k"]) == (0.7, 0.8, 20)
    config, _ = written(tmp_path / "b", "target.runtime.temperature=0.2", generation=generation)
    assert (config["temperature"], config["top_p"]) == (0.2, 0.8)


def test_a_runtime_key_goes_to_the_file_where_it_belongs(tmp_path: Path) -> None:
    config, model = written(
        tmp_path,
        "target.runtime.reuse_kv=true",
        "target.runtime.attn_scale=0.1",
        "target.runtime.jinja={context: {enable_thinking: false}}",
    )
    assert config["reuse_kv"] is True
    assert model["attn_scale"] == 0.1 and "attn_scale" not in config
    assert model["jinja"] == {
        "chat_template": "{{ messages }}",
        "eos": "</s>",
        "context": {"enable_thinking": False},
    }


def test_the_oldest_engine_gets_its_own_forms(tmp_path: Path) -> None:
    config, model = written(
        tmp_path,
        "target=mnn-3.4",
        head={"scale_bits": 32},
        tokenizer={"file": "tokenizer.txt"},
        generation={"do_sample": True, "top_k": 20},
    )
    assert config["tokenizer_file"] == "tokenizer.txt"
    assert (config["topK"], "top_k" in config) == (20, False)
    assert model["tie_embeddings"] == [1262, 6000, 600, 8, 64]
    assert model["jinja"]["bos"] == "<s>"


def test_fp16_scales_cannot_be_told_to_the_oldest_engine(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="fp32 only"):
        written(tmp_path, "target=mnn-3.4", tokenizer={"file": "tokenizer.txt"})


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"layout": {"hidden_size": 0}}, "hidden_size must be at least 1"),
        ({"layout": {"attention_type": "some"}}, "attention_type must be one of full, mix, sliding"),
        ({"head": {"bits": 6}}, "tie_embeddings.quant_bit must be 4, 8 or 16, not 6"),
        ({"tokenizer": {"file": "../tokenizer.mtok"}}, "tokenizer_file: '../tokenizer.mtok' leaves"),
        ({"tokenizer": {"chat_template": 5}}, "jinja.chat_template must be text, not 5"),
    ],
)
def test_facts_that_the_engine_would_misread_fail_the_stage(
    tmp_path: Path, facts: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StageFailed) as error:
        written(tmp_path, **facts)
    assert str(error.value).startswith(f"config.json would be wrong: {problem}")


def test_the_same_facts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, "target.runtime.reuse_kv=true", generation={"top_k": 5, "do_sample": True})
    for file in ("config.json", "llm_config.json"):
        assert (tmp_path / "a" / "out" / file).read_bytes() == (tmp_path / "b" / "out" / file).read_bytes()


def test_the_stage_sees_the_target_only() -> None:
    seen = subset(recipe(), stage.STAGE.config)
    assert set(seen) == {"target"}
    assert set(seen["target"]) == {"engine", "runtime", "tie_embeddings"}
    assert stage.STAGE.module == stage.__name__ and stage.STAGE.in_process


# From here on the engine reads what the stage wrote, on tiny models that went through the real stages.

IDS = random_ids(24)
EXACT = {"memory": "high", "precision": "high", "thread_num": 1}


@pytest.fixture(scope="module")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.set_num_threads(1)
    yield write_tiny_model("llama", tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def product(source: Path, work: Path, *overrides: str) -> Path:
    """A tiny model through the real stages and this one; only its tokenizer is handmade."""
    whole = recipe("model=local", f"model.path={source}", *overrides)
    folders = {"source": source, "adapter": work / "adapter", "tokenizer": work / "tokenizer"}
    for name in ("adapter", "tokenizer"):
        folders[name].mkdir(parents=True)
    (folders["tokenizer"] / "tokenizer.txt").write_text("430 3\n0 1 0\n2\n3 0\na\nb\nc\n")
    facts = {**TOKENIZER, "file": "tokenizer.txt", "chat_template": ""}
    (folders["tokenizer"] / "tokenizer.json").write_text(json.dumps(facts))
    for module in (checkpoint, graph, places, weights, embedding, link, stage):
        folders[module.STAGE.name] = out = work / module.STAGE.name
        out.mkdir()
        module.run(subset(whole, module.STAGE.config), folders, out, Silent())
    made = work / "product"
    made.mkdir()
    for file in (
        "weights/llm.mnn.weight",
        "link/llm.mnn",
        "config/config.json",
        "config/llm_config.json",
        "tokenizer/tokenizer.txt",
    ):
        (made / Path(file).name).symlink_to(work / file)
    for table in (work / "embedding").glob("*.bin"):
        (made / table.name).symlink_to(table)
    assert check_product(made) == []
    return made


def engine_logits(made: Path) -> Floats:
    with Engine(made, EXACT, timeout=60) as engine:
        return engine.logits(IDS)


def reference(source: Path, embedding: Floats | None = None, head: Floats | None = None) -> Floats:
    """Hugging Face's logits, with another embedding table and another head where they are given."""
    model = load_reference(source)
    table = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        rows = torch.from_numpy(embedding) if embedding is not None else table
        last = torch.from_numpy(head) if head is not None else table
        model.get_output_embeddings().weight = torch.nn.Parameter(last)
        inputs = torch.nn.functional.embedding(torch.tensor([IDS]), rows)
        logits: Floats = model(inputs_embeds=inputs, use_cache=False).logits[0].float().numpy()
        return logits


def decoded(blob: bytes, start: int, alpha: int, bits: int, shape: tuple[int, int], block: int = 64) -> Floats:
    """Rows by MNN's format: codes from `start`, high nibble first, then pairs [zero, scale] in fp32 from `alpha`."""
    rows, columns = shape
    packed = np.frombuffer(blob, np.uint8, rows * columns * bits // 8, start)
    codes = packed if bits == 8 else np.stack([packed >> 4, packed & 15], axis=1)
    pairs = np.frombuffer(blob, "<f4", 2 * rows * columns // block, alpha).reshape(rows, -1, 1, 2)
    signed = codes.reshape(rows, -1, block).astype(np.float32) - (1 << (bits - 1))
    return (signed * pairs[..., 1] + pairs[..., 0]).reshape(shape)


def head_of(made: Path, source: Path, bits: int) -> Floats:
    """The lm_head's rows, read from the weight file by weights.json and not by what the stage under test wrote."""
    linear = json.loads((made.parent / "weights" / "weights.json").read_text())["linears"]["lm_head"]
    offset, codes = linear["external"][:2]
    blob = (made / "llm.mnn.weight").read_bytes()
    rows = decoded(blob, offset + 1 + 4 + 1 + (1 << bits), offset + codes, bits, (1000, 128))
    assert_rounded(rows, source, bits)
    return rows


def assert_rounded(rows: Floats, source: Path, bits: int) -> None:
    """Every value is within half a step (and fp32's noise) of the model's own."""
    table = load_reference(source).get_input_embeddings().weight.detach().numpy().reshape(1000, -1, 64)
    steps = (table.max(axis=2) - table.min(axis=2)) / (2**bits - 1)
    assert (np.abs(rows.reshape(table.shape) - table) <= steps[..., None] * 0.501).all()


def close(found: Floats, expected: Floats, tolerance: float = 1e-3) -> bool:
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def test_the_engine_reads_fp16_rows_from_the_head(tied_model: Path, tmp_path: Path) -> None:
    made = product(tied_model, tmp_path / "p", "quant=fp16")
    assert not (made / "embeddings_bf16.bin").exists()
    assert close(engine_logits(made), reference(tied_model))
    # Why the stage writes attention_mask: with the engine's own default, attention reads tokens that are not there yet.
    with Engine(made, {**EXACT, "attention_mask": "int"}, timeout=60) as engine:
        assert not close(engine.logits(IDS), reference(tied_model))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_engine_reads_quantised_rows_from_the_head(tied_model: Path, tmp_path: Path, bits: int) -> None:
    made = product(tied_model, tmp_path / "p", "quant=fp16", f"quant.lm_bits={bits}", "quant.lm_block=64",
                   "quant.scale_bits=32")  # fmt: skip
    head = head_of(made, tied_model, bits)
    found = engine_logits(made)
    assert close(found, reference(tied_model, head, head))
    assert not close(found, reference(tied_model))


def test_a_list_of_five_means_the_same(tied_model: Path, tmp_path: Path) -> None:
    """fp32 scales told as a list and as an object: the engine's logits are equal to the last bit."""
    made = product(tied_model, tmp_path / "p", "quant=fp16", "quant.lm_bits=8", "quant.lm_block=64",
                   "quant.scale_bits=32", "target.tie_embeddings=list")  # fmt: skip
    as_list = engine_logits(made)
    model = json.loads((made / "llm_config.json").read_text())
    assert isinstance(model["tie_embeddings"], list)
    names = ("weight_offset", "alpha_offset", "alpha_size", "quant_bit", "quant_block")
    model["tie_embeddings"] = {**dict(zip(names, model["tie_embeddings"], strict=True)), "alpha_dtype": "fp32"}
    (made / "llm_config.json").unlink()
    (made / "llm_config.json").write_text(json.dumps(model))
    assert np.array_equal(engine_logits(made), as_list)


@pytest.mark.parametrize(("bits", "file"), [(16, "embeddings_bf16.bin"), (8, "embeddings_int8.bin")])
def test_the_engine_reads_a_table_of_its_own(tied_model: Path, tmp_path: Path, bits: int, file: str) -> None:
    made = product(tied_model, tmp_path / "p", "quant=fp16", "quant.lm_block=64", "embedding=separate",
                   f"embedding.bits={bits}")  # fmt: skip
    assert json.loads((made / "config.json").read_text())["embedding_file"] == file
    table = None
    if bits == 8:
        table = decoded((made / file).read_bytes(), 0, 1000 * 128, 8, (1000, 128))
        assert_rounded(table, tied_model, 8)
    assert close(engine_logits(made), reference(tied_model, table))


def test_a_sliding_window_is_told(tmp_path: Path) -> None:
    source = write_tiny_model("mistral", tmp_path / "model", tie_word_embeddings=True)
    made = product(source, tmp_path / "p", "quant=fp16")
    model = json.loads((made / "llm_config.json").read_text())
    assert (model["attention_type"], model["sliding_window"]) == ("mix", 16)
    assert close(engine_logits(made), reference(source))


def test_a_recurrent_state_and_drafts_do_not_go_together(tmp_path: Path) -> None:
    drafts = "target.runtime.speculative_type=lookahead"
    with pytest.raises(StageFailed, match="speculative_type: drafted tokens"):
        written(tmp_path / "a", drafts, layout={"recurrent": True})
    assert written(tmp_path / "b", drafts)[0]["speculative_type"] == "lookahead"
