"""Adapters that stay apart: PEFT's own, checked against the outline of a base; and what cannot be split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.checkpoint import open_checkpoint
from pipeline.checkpoint.lora_split import SplitAdapter, outlines, read_split, split_folders
from pipeline.checkpoint.lora_vocabulary import refuse_new_tokens
from pipeline.errors import StageFailed
from tests.checkpoint.adapters import adapted, base_model, save

ATTENTION = ["q_proj", "v_proj"]


def outline(base: Path, folder: Path) -> Any:
    """The base as the stage knows it."""
    tensors = {name: {"shape": list(one.shape), "dtype": one.dtype} for name, one in open_checkpoint(base).items()}
    (folder / "tensors.json").write_text(json.dumps({"tensors": tensors}))
    return outlines(folder / "tensors.json")


def split(tmp_path: Path, base: dict[str, Any] | None = None, weight: float = 1.0, **config: Any) -> SplitAdapter:
    peft = adapted(base_model(**(base or {})), **{"target_modules": ATTENTION, **config})
    folders = save(base_model(**(base or {})), peft, tmp_path)
    return read_split(outline(folders[0], tmp_path), "lora", folders[1], weight)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True, "r": 9},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 32}},
        {"layers_to_transform": [1]},
    ],
)
def test_changes_are_pefts(tmp_path: Path, config: dict[str, Any]) -> None:
    found = split(tmp_path, weight=0.5, **config)
    peft = adapted(base_model(), **{"target_modules": ATTENTION, **config})
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in peft.named_modules()
        if hasattr(module, "get_delta_weight") and module.lora_A
    }
    assert {f"{name}.weight" for name in layers} == set(found.matrices)
    for name, module in layers.items():
        change = found.matrices[f"{name}.weight"]
        expected = 0.5 * module.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(change.delta(0, len(expected)), expected, atol=1e-6)


def test_the_bias_of_b_is_a_shift(tmp_path: Path) -> None:
    found = split(tmp_path, {"attention_bias": True}, target_modules=["q_proj"], lora_bias=True)
    assert set(found.vectors) == {f"model.layers.{n}.self_attn.q_proj.bias" for n in (0, 1)}


@pytest.mark.parametrize(
    ("base", "config", "reason"),
    [
        ({}, {"use_dora": True}, "is a DoRA"),
        ({}, {"modules_to_save": ["lm_head"]}, "replaces a tensor as a whole"),
        ({}, {"modules_to_save": ["norm"]}, "replaces a tensor as a whole"),
        ({}, {"target_modules": ["q_proj", "lm_head"]}, "replaces a tensor as a whole"),  # with its base layer
        ({}, {"target_modules": ["q_proj", "embed_tokens"]}, "changes the token embedding"),
        ({}, {"modules_to_save": ["embed_tokens"]}, "changes the token embedding"),
        ({"attention_bias": True}, {"bias": "lora_only"}, "replaces a tensor as a whole"),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, base: dict[str, Any], config: dict[str, Any], reason: str) -> None:
    with pytest.raises(StageFailed, match=f"adapter lora cannot be split: it {reason}") as caught:
        split(tmp_path, base, **config)
    assert str(caught.value).endswith("→ use adapter=merge, which can")


def edit(folder: Path, change: Any) -> None:
    path = str(folder / "adapter_model.safetensors")
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize(
    ("other", "change", "message"),
    [
        ({"hidden_size": 32}, None, r"adapter lora: .* is made for \[64, 64\], the model has \[32, 32\]"),
        ({"num_hidden_layers": 1}, None, "2 of its 4 modules are in this model"),
        ({}, lambda w: {k: v * ("lora_B" not in k) for k, v in w.items()}, "adapter lora changes nothing"),
        ({}, lambda w: {k: v[:, :3].copy() if "lora_B" in k else v for k, v in w.items()}, "ranks of .* differ"),
        ({}, lambda w: {k: v for k, v in w.items() if "v_proj" not in k}, "names v_proj"),
    ],
)
def test_every_check_of_a_merge_holds(tmp_path: Path, other: dict[str, Any], change: Any, message: str) -> None:
    _, adapter = save(base_model(), adapted(base_model(), target_modules=ATTENTION), tmp_path)
    if change is not None:
        edit(adapter, change)
    base_model(**other).save_pretrained(tmp_path / "other")
    with pytest.raises(StageFailed, match=message) as caught:
        read_split(outline(tmp_path / "other", tmp_path), "lora", adapter, 1.0)
    assert "\n" not in str(caught.value)


def test_folders_with_names_and_weights(tmp_path: Path) -> None:
    for name in ("b@0.5", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    assert split_folders(tmp_path) == [("a", tmp_path / "a", 1.0), ("b", tmp_path / "b@0.5", 0.5)]
    with pytest.raises(StageFailed, match=r"no adapter_config\.json"):
        split_folders(tmp_path / "a")


# The vocabulary.

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<s>", "id": 2}]}


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        (
            "tokenizer.json",
            {"added_tokens": [{"content": "<s>", "id": 2}, {"content": "<t>", "id": 3}]},
            "<t>",
        ),
        ("tokenizer.json", {"model": {"vocab": [["a", -1.0], ["c", -2.0]]}}, "c"),
        ("tokenizer.json", {"model": {"vocab": {"a": 1}}}, "a"),
        ("added_tokens.json", {"<s>": 2, "<tool>": 7}, "<tool>"),
    ],
)
def test_new_or_moved_tokens_are_refused(tmp_path: Path, name: str, content: Any, shown: str) -> None:
    for folder in ("base", "adapter"):
        (tmp_path / folder).mkdir()
    (tmp_path / "base/tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "adapter" / name).write_text(json.dumps(content))
    with pytest.raises(StageFailed, match=rf"the adapter changes the vocabulary: .* 1 tokens .* \({shown}\)") as caught:
        refuse_new_tokens(tmp_path / "adapter", tmp_path / "base", "the adapter")
    assert "merge it with PEFT" in caught.value.next_step


def test_the_same_tokens_are_no_change(tmp_path: Path) -> None:
    for folder in ("base", "adapter"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "adapter/added_tokens.json").write_text('{"<s>": 2}')
    refuse_new_tokens(tmp_path / "adapter", tmp_path / "base", "the adapter")
    (tmp_path / "base/tokenizer.json").unlink()
    refuse_new_tokens(tmp_path / "adapter", tmp_path / "base", "the adapter")
