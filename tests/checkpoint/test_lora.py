"""LoRA merges against PEFT's own, on tiny random models of eight families, and everything that must be refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.checkpoint import open_checkpoint
from pipeline.checkpoint.lora import MergedCheckpoint, merge_adapters
from pipeline.errors import StageFailed
from tests.checkpoint.adapters import FAMILIES, TARGETS, adapted, base_model, logits, save

ATTENTION = ["q_proj", "v_proj"]


def opened(base: Path, adapter: Path, weight: float = 1.0) -> MergedCheckpoint:
    checkpoint = open_checkpoint(base, adapter, weight)
    assert isinstance(checkpoint, MergedCheckpoint)
    return checkpoint


def rebuilt(base: Path, checkpoint: MergedCheckpoint, folder: Path) -> torch.nn.Module:
    """The merged checkpoint as transformers loads it, from a folder that only the test writes."""
    folder.mkdir()
    config = AutoConfig.from_pretrained(base)
    config.tie_word_embeddings = config.tie_word_embeddings and not checkpoint.untied
    config.save_pretrained(folder)
    arrays = {name: np.ascontiguousarray(tensor.read()) for name, tensor in checkpoint.items()}
    save_file(arrays, str(folder / "model.safetensors"), metadata={"format": "pt"})
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.eval()


def check(tmp_path: Path, family: str = "llama", base: dict[str, Any] | None = None, **config: Any) -> MergedCheckpoint:
    """Every tensor equals that of PEFT's merge_and_unload, and so do the logits."""
    adapter = adapted(
        base_model(family, **(base or {})), **{"target_modules": TARGETS.get(family, ATTENTION), **config}
    )
    folders = save(base_model(family, **(base or {})), adapter, tmp_path)
    checkpoint = opened(*folders)
    before, expected = logits(base_model(family, **(base or {}))), logits(adapter)
    assert (before - expected).abs().max() > 0.05, "the adapter must change the answer, or the test cannot fail"
    merged = adapter.merge_and_unload()
    ours = rebuilt(folders[0], checkpoint, tmp_path / "ours")
    theirs = merged.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(
            value, theirs[name], atol=2e-6, rtol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(logits(ours), expected, atol=2e-4, rtol=1e-4)
    return checkpoint


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families(tmp_path: Path, family: str) -> None:
    check(tmp_path, family)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("parameters", [["gate_up_proj"], ["down_proj"], ["gate_up_proj", "down_proj"]])
def test_stacked_experts(tmp_path: Path, family: str, parameters: list[str]) -> None:
    checkpoint = check(tmp_path, family, target_parameters=[f"mlp.experts.{name}" for name in parameters])
    assert any(".experts.3." in name for name in checkpoint.changed)


def test_all_linear_with_experts_and_router(tmp_path: Path) -> None:
    check(tmp_path, "qwen3_moe", target_modules="all-linear")


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True, "r": 9},
        {"rank_pattern": {"v_proj": 2, r"layers\.1\.self_attn\.q_proj": 6}, "alpha_pattern": {"q_proj": 32}},
        {"target_modules": r".*\.layers\.1\..*(up|down)_proj"},
        {"layers_to_transform": [1]},
        {"use_dora": True},
        {"modules_to_save": ["norm", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    ],
)
def test_options(tmp_path: Path, config: dict[str, Any]) -> None:
    check(tmp_path, **config)


@pytest.mark.parametrize("config", [{"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}])
def test_biases(tmp_path: Path, config: dict[str, Any]) -> None:
    checkpoint = check(tmp_path, base={"attention_bias": True}, **config)
    assert "model.layers.0.self_attn.q_proj.bias" in checkpoint.changed


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_conv1d_with_fan_in_fan_out(tmp_path: Path, options: dict[str, Any]) -> None:
    """GPT-2 stores [in, out]; c_proj of attention is square, so only the flag can say so."""
    check(tmp_path, "gpt2", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, **options)


def test_tensors_that_no_adapter_touches_stay_as_they_are(tmp_path: Path) -> None:
    folders = save(base_model(), adapted(base_model(), target_modules=ATTENTION), tmp_path)
    checkpoint, plain = opened(*folders), open_checkpoint(folders[0])
    assert set(checkpoint) == set(plain) and len(checkpoint.changed) == 4
    for name in set(plain) - set(checkpoint.changed):
        assert type(checkpoint[name]) is type(plain[name])
        np.testing.assert_array_equal(checkpoint[name].read(), plain[name].read())


def test_rows_do_not_depend_on_how_they_are_read(tmp_path: Path) -> None:
    adapter = adapted(base_model(vocab_size=333), target_modules=["q_proj", "embed_tokens", "down_proj"], use_dora=True)
    checkpoint = opened(*save(base_model(vocab_size=333), adapter, tmp_path))
    for name in checkpoint.changed:
        whole = checkpoint[name].read()
        for start, stop in ((0, 1), (5, 6), (63, 65), (10, None), (0, 64)):
            np.testing.assert_array_equal(checkpoint[name].read(start, stop), whole[start:stop])


def test_several_adapters_in_a_row(tmp_path: Path) -> None:
    base = base_model()
    base.save_pretrained(tmp_path / "base")
    folders = [tmp_path / "adapters" / str(number) for number in (0, 1)]
    adapted(base_model(), 1, target_modules=["q_proj", "v_proj"], use_dora=True).save_pretrained(folders[0])
    adapted(base_model(), 2, target_modules=["q_proj", "up_proj"], use_dora=True, r=2).save_pretrained(folders[1])
    model = PeftModel.from_pretrained(base, folders[0], adapter_name="0")
    model.load_adapter(folders[1], "1")
    expected = model.merge_and_unload(adapter_names=["0", "1"]).state_dict()
    checkpoint = opened(tmp_path / "base", tmp_path / "adapters")
    assert any("up_proj" in name for name in checkpoint.changed) and any(
        "v_proj" in name for name in checkpoint.changed
    )
    for name, tensor in checkpoint.items():
        torch.testing.assert_close(torch.from_numpy(tensor.read()), expected[name], atol=2e-6, rtol=2e-6)


def test_weight_scales_the_difference(tmp_path: Path) -> None:
    folders = save(base_model(), adapted(base_model(), target_modules=ATTENTION), tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    plain = open_checkpoint(folders[0])[name].read()
    full, half = (opened(*folders, weight)[name].read() - plain for weight in (1.0, 0.5))
    np.testing.assert_allclose(half, full / 2, atol=1e-6)


def test_each_adapter_has_a_weight_of_its_own(tmp_path: Path) -> None:
    """Against PEFT's own weighted sum of adapters."""
    base_model().save_pretrained(tmp_path / "base")
    folders = [tmp_path / "adapters" / name for name in ("0@0.7", "1@-0.25", "10")]
    for seed, folder in enumerate(folders):
        adapted(base_model(), seed, target_modules=ATTENTION).save_pretrained(folder)
    model = PeftModel.from_pretrained(base_model(), folders[0], adapter_name="a")
    model.load_adapter(folders[1], "b")
    model.load_adapter(folders[2], "c")
    model.add_weighted_adapter(["a", "b", "c"], [0.7, -0.25, 1.0], "sum", combination_type="cat")
    model.set_adapter("sum")
    expected = model.merge_and_unload(adapter_names=["sum"]).state_dict()
    checkpoint = opened(tmp_path / "base", tmp_path / "adapters")
    assert len(checkpoint.changed) == 4
    for name, tensor in checkpoint.items():
        torch.testing.assert_close(torch.from_numpy(tensor.read()), expected[name], atol=2e-6, rtol=2e-6)


def test_no_adapter_at_all(tmp_path: Path) -> None:
    base_model().save_pretrained(tmp_path / "base")
    with pytest.raises(StageFailed, match=r"no adapter_config\.json"):
        merge_adapters(open_checkpoint(tmp_path / "base"), tmp_path)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_tied_weights_are_untied_when_one_changes(tmp_path: Path, target: str) -> None:
    """PEFT's merge writes into the shared tensor and so changes both; right is what the adapted model computes."""
    tied = {"tie_word_embeddings": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = adapted(base_model(**tied), target_modules=["q_proj", target])
    folders = save(base_model(**tied), adapter, tmp_path)
    assert "lm_head.weight" not in load_torch(folders[0] / "model.safetensors")
    checkpoint = opened(*folders)
    assert checkpoint.untied and "lm_head.weight" in checkpoint
    torch.testing.assert_close(
        logits(rebuilt(folders[0], checkpoint, tmp_path / "ours")), logits(adapter), atol=2e-4, rtol=1e-4
    )


def test_tied_weights_stay_tied_when_both_are_replaced_alike(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    adapter = adapted(
        base_model(**tied), target_modules=ATTENTION, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    checkpoint = opened(*save(base_model(**tied), adapter, tmp_path))
    assert not checkpoint.untied


def test_bfloat16_base_is_merged_in_float32(tmp_path: Path) -> None:
    adapter = adapted(base_model(), target_modules=ATTENTION)
    base, folder = save(base_model().to(torch.bfloat16), adapter, tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    weights = load_torch(folder / "adapter_model.safetensors")
    delta = 2 * weights[f"base_model.model.{name}.lora_B.weight"] @ weights[f"base_model.model.{name}.lora_A.weight"]
    expected = load_torch(base / "model.safetensors")[f"{name}.weight"].float() + delta
    torch.testing.assert_close(torch.from_numpy(opened(base, folder)[f"{name}.weight"].read()), expected)


# What must be refused.


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return save(base_model(), adapted(base_model(), target_modules=ATTENTION), tmp_path)


def refused(folders: tuple[Path, Path], message: str, weight: float = 1.0) -> None:
    with pytest.raises(StageFailed, match=message) as caught:
        opened(*folders, weight)
    assert "\n" not in str(caught.value) and caught.value.next_step


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(adapter: Path, edit: Any) -> None:
    path = str(adapter / "adapter_model.safetensors")
    save_file(edit(load_file(path)), path)


def test_other_base_by_names(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base_model("gpt_neox").save_pretrained(tmp_path / "other")
    refused((tmp_path / "other", folders[1]), "none of its 4 modules is in this model")


def test_other_base_by_shapes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base_model(hidden_size=32).save_pretrained(tmp_path / "other")
    refused((tmp_path / "other", folders[1]), r"made for \[64, 64\], the model has \[32, 32\]")


def test_only_some_matched(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base_model(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    refused((tmp_path / "other", folders[1]), "2 of its 4 modules are in this model; not model.layers.1")


def test_target_that_the_weights_do_not_have(folders: tuple[Path, Path]) -> None:
    edit_weights(folders[1], lambda weights: {k: v for k, v in weights.items() if "v_proj" not in k})
    refused(folders, "names v_proj, and the weights have nothing for it")


def test_zero_difference(folders: tuple[Path, Path]) -> None:
    edit_weights(folders[1], lambda weights: {k: v * ("lora_B" not in k) for k, v in weights.items()})
    refused(folders, "changes nothing")


def test_zero_weight(folders: tuple[Path, Path]) -> None:
    with pytest.raises(StageFailed, match="changes nothing"):
        merge_adapters(open_checkpoint(folders[0]), folders[1], 0.0)


def test_rank_that_differs_from_the_configuration(folders: tuple[Path, Path]) -> None:
    edit_config(folders[1], r=8)
    refused(folders, "has rank 4, adapter_config.json says 8")


def test_ranks_that_differ_from_each_other(folders: tuple[Path, Path]) -> None:
    edit_weights(folders[1], lambda w: {k: v[:, :3].copy() if "lora_B" in k else v for k, v in w.items()})
    refused(folders, "ranks of .* differ")


def test_one_matrix_only(folders: tuple[Path, Path]) -> None:
    edit_weights(folders[1], lambda w: {k: v for k, v in w.items() if "layers.1.self_attn.q_proj.lora_B" not in k})
    refused(folders, "only one of its two matrices")


def test_key_that_is_not_pefts(folders: tuple[Path, Path]) -> None:
    edit_weights(folders[1], lambda w: {**w, "model.layers.0.extra": np.ones(3, np.float32)})
    refused(folders, "not named as PEFT names them")


def test_key_that_is_not_known(folders: tuple[Path, Path]) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_mystery"
    edit_weights(folders[1], lambda w: {**w, key: np.ones(3, np.float32)})
    refused(folders, "lora_mystery is not known here")


def test_empty_adapter(folders: tuple[Path, Path]) -> None:
    edit_weights(folders[1], lambda w: {})
    refused(folders, "no tensors at all")


def test_dora_flag_without_magnitudes(folders: tuple[Path, Path]) -> None:
    edit_config(folders[1], use_dora=True)
    refused(folders, "use_dora and the magnitude vector")


def test_truncated_adapter(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folders, "truncated")


def test_vocabulary_change(tmp_path: Path) -> None:
    larger = base_model()
    larger.resize_token_embeddings(90)
    adapter = adapted(larger, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"])
    refused(save(base_model(), adapter, tmp_path), "the model → it changes the vocabulary")


def test_bias_for_a_module_without_one(tmp_path: Path) -> None:
    adapter = adapted(base_model(attention_bias=True), target_modules=["q_proj"], lora_bias=True)
    refused(save(base_model(), adapter, tmp_path), "adds to the bias of .*, which has none")


def test_replaced_tensor_cannot_be_weighted(tmp_path: Path) -> None:
    adapter = adapted(base_model(), target_modules=ATTENTION, modules_to_save=["lm_head"])
    refused(save(base_model(), adapter, tmp_path), "replaces lm_head.weight as a whole", weight=0.5)


def test_experts_of_another_size(tmp_path: Path) -> None:
    adapter = adapted(base_model("qwen3_moe"), target_parameters=["mlp.experts.down_proj"], target_modules=["q_proj"])
    refused(save(base_model("qwen3_moe", num_experts=6), adapter, tmp_path), "fit none of its 6 experts")
