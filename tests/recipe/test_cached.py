"""Kept compositions: equal to fresh ones, forgotten when anything they came from changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe import cached
from pipeline.recipe.cached import compose_cached
from pipeline.recipe.compose import Composed, compose
from pipeline.recipe.conf import SHIPPED


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that stands before the shipped one."""
    folder = tmp_path / "conf"
    shutil.copytree(SHIPPED, folder)
    monkeypatch.setenv("PIPELINE_CONF", str(folder))
    return folder


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The requests that were composed anew."""
    seen: list[list[str]] = []

    def counted(overrides: list[str], *rest: object) -> list[Composed]:
        seen.append(list(overrides))
        return compose(overrides, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cached, "compose", counted)
    return seen


def test_the_second_request_is_read_and_equal(tmp_path: Path, composed: list[list[str]]) -> None:
    overrides = ["quant=int4,int8", "target.runtime.reuse_kv=true", "quant.bits=5"]
    first = compose_cached(overrides, tmp_path / "cache", tmp_path)
    assert compose_cached(overrides, tmp_path / "cache", tmp_path) == first == compose(overrides, None, tmp_path)
    assert composed == [overrides]


def test_other_overrides_and_another_folder_are_other_entries(tmp_path: Path, composed: list[list[str]]) -> None:
    for overrides, folder in (([], tmp_path), (["quant=int8"], tmp_path), ([], tmp_path / "..")):
        compose_cached(overrides, tmp_path / "cache", folder)
    assert len(composed) == 3


def test_a_changed_yaml_is_noticed(tmp_path: Path, conf: Path, composed: list[list[str]]) -> None:
    compose_cached([], tmp_path / "cache", tmp_path)
    (conf / "quant" / "int4.yaml").write_text("bits: 4\nblock: 32\n")
    (recipe,) = compose_cached([], tmp_path / "cache", tmp_path)
    assert recipe.recipe.quant.block == 32
    assert len(composed) == 2


def test_a_yaml_that_only_changed_in_place_is_noticed(tmp_path: Path, conf: Path) -> None:
    file = conf / "quant" / "int4.yaml"
    before = file.stat()
    compose_cached([], tmp_path / "cache", tmp_path)
    file.write_text(file.read_text().replace("block: 64", "block: 32"))
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert compose_cached([], tmp_path / "cache", tmp_path)[0].recipe.quant.block == 32


def test_a_new_model_is_noticed_by_a_glob(tmp_path: Path, conf: Path) -> None:
    request = ["model=glob(qwen2-*)"]
    before = len(compose_cached(request, tmp_path / "cache", tmp_path))
    (conf / "model" / "qwen2-9b.yaml").write_text("repo: someone/qwen2-9b\n")
    assert len(compose_cached(request, tmp_path / "cache", tmp_path)) == before + 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[{}]", b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_entry_is_composed_anew(tmp_path: Path, composed: list[list[str]], damage: bytes) -> None:
    first = compose_cached([], tmp_path / "cache", tmp_path)
    (entry,) = (tmp_path / "cache").glob("*.json")
    entry.write_bytes(damage)
    assert compose_cached([], tmp_path / "cache", tmp_path) == first
    assert len(composed) == 2


def test_what_depends_on_the_environment_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ["model=local", "model.path=${oc.env:MODEL_HOME}"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("MODEL_HOME", str(tmp_path / name))
        assert compose_cached(request, tmp_path / "cache", tmp_path)[0].recipe.model.path == str(tmp_path / name)


def test_a_path_that_went_away_is_an_error_although_the_recipe_is_kept(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    request = ["model=local", "model.path=model"]
    compose_cached(request, tmp_path / "cache", tmp_path)
    model.rmdir()
    with pytest.raises(UserError, match=r"model\.path: .*/model is not there"):
        compose_cached(request, tmp_path / "cache", tmp_path)


def test_a_local_models_sizes_are_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "config.json"
    request = ["model=local", "model.path=model"]
    for broken in (b"{", b"[]", b"\xff"):  # the source stage has a better word for these
        file.write_bytes(broken)
        compose_cached(request, tmp_path / "cache", tmp_path)
    file.write_text('{"hidden_size": 576, "intermediate_size": 1500}')
    with pytest.raises(UserError, match=r"quant\.block=64 does not divide the model's intermediate_size of 1500"):
        compose_cached(request, tmp_path / "cache", tmp_path)
    file.write_text('{"hidden_size": 576, "intermediate_size": 1536}')
    assert len(compose_cached(request, tmp_path / "cache", tmp_path)) == 1


def test_a_wrong_request_is_never_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match="unknown model 'nothing'"):
            compose_cached(["model=nothing"], tmp_path / "cache", tmp_path)
    assert not list(tmp_path.glob("cache/*.json"))


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    assert compose_cached([], tmp_path / "cache", tmp_path)[0].name == "smollm2-135m-int4"


def test_old_entries_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "KEPT", 2)
    for name in "abcd":
        compose_cached([f"name={name}"], tmp_path / "cache", tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_kept_request_imports_neither_hydra_nor_omegaconf(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.recipe.cached import compose_cached;"
        f"names = [r.name for r in compose_cached(['quant=int4,int8'], Path({str(tmp_path)!r}))];"
        "print(names, sorted({'hydra', 'omegaconf', 'antlr4', 'yaml'} & set(sys.modules)))"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        for _ in range(2)
    ]
    names = "['smollm2-135m-int4', 'smollm2-135m-int8']"
    assert outputs[0].startswith(names) and "hydra" in outputs[0]
    assert outputs[1].strip() == f"{names} []"
