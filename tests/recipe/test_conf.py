"""Where configuration is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe import conf


def test_the_shipped_folder_comes_last(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    joined = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")])
    assert conf.conf_dirs(joined) == [tmp_path / "a", tmp_path / "b", conf.SHIPPED]
    assert conf.conf_dirs("") == [conf.SHIPPED]


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="PIPELINE_CONF names a folder that is not there: /nowhere"):
        conf.conf_dirs("/nowhere")


def test_a_relative_folder_starts_where_the_person_typed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert conf.conf_dirs("mine", tmp_path) == [tmp_path / "mine", conf.SHIPPED]


def test_options_are_the_union_and_the_first_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "quant" / "mine").mkdir(parents=True)
    for name in ("int4", "mine/odd"):
        (tmp_path / "quant" / f"{name}.yaml").write_text("bits: 4\n")
    folders = [tmp_path, conf.SHIPPED]
    assert {"int4", "int8", "fp16", "mine/odd"} <= set(conf.options("quant", folders))
    assert conf.option_file("quant", "int4", folders) == tmp_path / "quant" / "int4.yaml"
    assert conf.option_file("quant", "int8", folders).parent == conf.SHIPPED / "quant"


def test_an_unknown_option_has_a_nearest_match() -> None:
    with pytest.raises(
        UserError, match=r"unknown model 'qwen2-0.5'\. Did you mean 'qwen2-0.5b'\? → list them: doit models"
    ):
        conf.option_file("model", "qwen2-0.5", [conf.SHIPPED])
    with pytest.raises(UserError, match=r"unknown adapter 'merged'.* → known: merge, none, split"):
        conf.option_file("adapter", "merged", [conf.SHIPPED])


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 1\nb: [\n")
    with pytest.raises(UserError) as error:
        conf.read_yaml(file)
    assert str(error.value).startswith(f"{file}, line 3 is not valid YAML")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not valid YAML"):
        conf.read_yaml(file)


def test_yaml_makes_plain_data_only(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="is not valid YAML"):
        conf.read_yaml(file)
