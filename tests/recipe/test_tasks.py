"""A local model's config.json says what the model is for; what it was not made for is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe.cached import compose_cached

RERANKER = {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"],
            "id2label": {"0": "LABEL_0"}, "hidden_size": 64, "intermediate_size": 128}  # fmt: skip


def task(folder: Path, config: dict, *overrides: str) -> str:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(config))
    request = ["model=local", f"model.path={folder / 'model'}", *overrides]
    (recipe,) = compose_cached(request, folder / "cache", folder)
    return recipe.recipe.model.task


def test_a_classifier_with_one_label_is_a_reranker(tmp_path: Path) -> None:
    assert task(tmp_path, RERANKER) == "rerank"
    assert task(tmp_path, RERANKER, "model.task=rerank") == "rerank"
    encoder = {**RERANKER, "architectures": ["XLMRobertaModel"]}
    assert task(tmp_path, encoder, "model.task=embedding") == "embedding"
    decoder = {**RERANKER, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    assert task(tmp_path, decoder) == "text"  # the composition is kept, the folder is read again


@pytest.mark.parametrize(
    ("changes", "overrides", "reason"),
    [
        ({}, ["model.task=embedding"], "set model.task=rerank"),
        ({"id2label": {"0": "a", "1": "b"}}, [], "2 classes"),
        ({"architectures": ["XLMRobertaModel"]}, ["model.task=rerank"], "no head that scores pairs"),
        ({}, ["quant=int4-awq"], "calibrates on models that write text"),
        ({}, ["model.task=rerank", "model.pooling=mean"], "model.pooling"),
        ({}, ["model.task=rank"], "model.task must be one of"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    changes: dict, overrides: list[str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        task(tmp_path, {**RERANKER, **changes}, *overrides)


def test_a_reranker_takes_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    with pytest.raises(UserError, match="adapters of rerankers"):
        task(tmp_path, RERANKER, "adapter=merge", f"adapter.path={tmp_path / 'lora'}")
