"""Rows for `doit models`: what conf/model/ offers, read as plain YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.recipe import typed
from pipeline.recipe.conf import conf_dirs, option_files, read_yaml
from pipeline.recipe.schema import Model


@dataclass(frozen=True)
class ModelRow:
    """One model. parameters in billions, context_length in tokens; 0 where the YAML does not say."""

    name: str
    family: str
    parameters: float
    context_length: int
    licence: str
    source: str
    notes: str


def model_rows(folders: Sequence[Path] | None = None) -> list[ModelRow]:
    """Every model, by family and size. Raises UserError that names a YAML that is wrong."""
    files = option_files("model", folders if folders is not None else conf_dirs())
    rows = [_row(name, file) for name, file in files.items()]
    return sorted(rows, key=lambda row: (row.family, row.parameters, row.name))


def _row(name: str, file: Path) -> ModelRow:
    model = typed.build(Model, read_yaml(file) or {}, f"{file.name}: model")
    size, context = model.parameters, model.context_length
    return ModelRow(name, model.family, size, context, model.licence, _source(model), model.notes)


def _source(model: Model) -> str:
    if model.hub == "package":
        return f"{model.package.distribution} (Python package)"
    if model.hub == "local":
        return model.path or "model.path=DIR"
    return model.repo or model.modelscope_repo
