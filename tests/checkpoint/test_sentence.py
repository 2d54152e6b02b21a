"""sentence-transformers' files, as its versions write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.sentence import SentenceConfig, read_sentence_config
from pipeline.errors import UserError


def write(folder: Path, pooling: dict[str, Any], kinds: tuple[str, ...] = ("Normalize",), **files: Any) -> Path:
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling")]
    modules += [(f"{number}_{kind}", f"sentence_transformers.models.{kind}") for number, kind in enumerate(kinds, 2)]
    files["modules"] = [{"idx": n, "name": str(n), "path": path, "type": kind}
                        for n, (path, kind) in enumerate(modules)]  # fmt: skip
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 64}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_pooling(pooling: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert read_sentence_config(write(tmp_path, pooling)).pooling == expected


@pytest.mark.parametrize(
    ("pooling", "kinds", "reason"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "cls and mean"),
        ({"pooling_mode_weightedmean_tokens": True}, (), "weightedmean"),
        ({}, (), "nothing"),
        ({"pooling_mode_mean_tokens": True}, ("Dense",), "Dense"),
    ],
)
def test_what_is_not_known_is_refused(
    pooling: dict[str, Any], kinds: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        read_sentence_config(write(tmp_path, pooling, kinds))


def test_prompts_length_and_case(tmp_path: Path) -> None:
    prompts = {"query": "Instruct: search\nQuery:", "document": ""}
    folder = write(
        tmp_path,
        {"pooling_mode_lasttoken": True},
        (),
        config_sentence_transformers={"prompts": prompts, "default_prompt_name": "query"},
        sentence_bert_config={"max_seq_length": 512, "do_lower_case": True},
    )
    assert read_sentence_config(folder) == SentenceConfig(
        "last", False, 512, {"query": "Instruct: search\nQuery:"}, "query", True
    )


def test_pooling_without_the_prompts_tokens_is_refused(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
        config_sentence_transformers={"prompts": {"query": "q: "}},
    )
    with pytest.raises(UserError, match="include_prompt"):
        read_sentence_config(folder)


def test_a_bare_encoder_needs_the_recipes_word(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.pooling"):
        read_sentence_config(tmp_path)
    assert read_sentence_config(tmp_path, "mean") == SentenceConfig("mean", True)


def test_damaged_json_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(UserError, match=r"modules\.json"):
        read_sentence_config(tmp_path)
