"""Unknown names of conf/ are found without Hydra, and the grammar's own texts are left to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.recipe.unknown import refuse_early, refuse_unknown_options

FOLDERS = [SHIPPED]


@pytest.mark.parametrize("text", ["model=smollm2-135m", "quant=int4-gptq", "model.path=/nowhere", "name=nope", "+x=y"])
def test_known_options_and_other_keys_pass(text: str) -> None:
    refuse_early([text], FOLDERS)


@pytest.mark.parametrize("text", ["model=smollm2-135m,nope", "quant=choice(int4,nope)", "model=glob(no*)"])
def test_sweeps_are_left_to_hydra(text: str) -> None:
    refuse_early([text], FOLDERS)


@pytest.mark.parametrize(
    ("text", "wrong"), [("model=smollm2-135", "smollm2-135"), ("quant=int44", "int44"), ("target=arm/x", "arm/x")]
)
def test_an_unknown_name_is_refused_with_its_group(text: str, wrong: str) -> None:
    with pytest.raises(UserError, match=f"unknown {text.split('=')[0]} '{wrong}'"):
        refuse_early(["verify=off", text], FOLDERS)


def test_quotes_are_no_part_of_a_name() -> None:
    refuse_unknown_options(["model='smollm2-135m'"], FOLDERS)
    with pytest.raises(UserError, match="unknown model 'nope'"):
        refuse_unknown_options(["model='nope'"], FOLDERS)


@pytest.mark.parametrize("text", ["model=smollm2-135m,nope", "model='nope'", "model=nope"])
def test_whoever_finds_it_the_error_is_the_same(text: str) -> None:
    with pytest.raises(UserError, match="unknown model 'nope'"):
        compose([text], FOLDERS)


def test_a_folder_of_the_users_own_counts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("repo: a/b\n")
    refuse_early(["model=mine"], [tmp_path, SHIPPED])
    with pytest.raises(UserError):
        refuse_early(["model=mine"], FOLDERS)


def test_no_hydra_is_imported_for_it() -> None:
    code = (
        "import sys\nfrom pipeline.recipe.compose import compose\n"
        "try: compose(['model=nope'])\nexcept Exception as error: print(type(error).__name__)\n"
        "print(sorted({'hydra', 'omegaconf', 'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["UserError", "[]"]
