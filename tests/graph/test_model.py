"""The model of a config: nothing has memory but buffers, and those have the values transformers gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.graph.model import instantiate, load_config, positions, prepare
from pipeline.graph.rotary import RotaryTable
from tests.graph import coverage
from tests.graph.evaluate import no_values
from tests.tiny_models import tiny_config, tiny_model, write_tiny_model

coverage.quiet()


@pytest.mark.parametrize("family", ["gemma3", "apertus", "llama_yarn", "gpt2"])
def test_buffers_are_real_and_parameters_are_not(family: str) -> None:
    config = tiny_config(family)
    model = instantiate(config)
    truth = tiny_model(config)
    expected = dict(truth.named_buffers())
    rotary = {name: getattr(module, "inv_freq", None) for name, module in model.named_modules()}
    prepare(model, truth.state_dict().__getitem__)
    assert all(parameter.is_meta for parameter in model.parameters())
    buffers = dict(model.named_buffers())
    for name, value in expected.items():
        if name in buffers:
            assert torch.equal(buffers[name], value), name
        else:  # a rotary module's, which is a table now
            assert name.rpartition(".")[0] in rotary


def test_a_buffer_of_the_checkpoint_comes_from_it() -> None:
    model = instantiate(tiny_config("deepseek_v3"))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    values = {name: torch.arange(8.0)}
    prepare(model, values.__getitem__)
    assert torch.equal(dict(model.named_buffers())[name], values[name])


def test_rotary_modules_are_tables_that_answer_for_them() -> None:
    model = instantiate(tiny_config("llama"))
    prepare(model, no_values)
    assert isinstance(model.model.rotary_emb, RotaryTable)
    assert model.model.rotary_emb.config is model.config
    with pytest.raises(AttributeError):
        _ = model.model.rotary_emb.nonsense


def test_alibi_is_refused() -> None:
    with pytest.raises(UserError, match="ALiBi"):
        instantiate(tiny_config("falcon_alibi"))


def test_positions_are_the_configs() -> None:
    assert positions(tiny_config("llama")) == 512
    assert positions(tiny_config("llama", max_position_embeddings=4096)) == 4096


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the model's config"):
        load_config(tmp_path)


def test_code_in_the_folder_does_not_run_unasked(tmp_path: Path) -> None:
    folder = write_tiny_model("llama", tmp_path)
    config = (folder / "config.json").read_text()
    auto = '"auto_map": {"AutoConfig": "code.Config"}, "model_type": "own",'
    (folder / "config.json").write_text(config.replace('"model_type": "llama",', auto))
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match=r"Python code of its own.*model\.trust_remote_code=true"):
        load_config(folder)
