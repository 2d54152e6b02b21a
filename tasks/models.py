"""`doit models`: what conf/model/ offers."""

from __future__ import annotations

from typing import Any

from tasks.failures import guarded


def task_models() -> dict[str, Any]:
    """models that can be built, from conf/"""
    return {"actions": [guarded("models", show)], "io": {"capture": False}}


def show() -> None:
    """The action. Raises UserError that names a YAML that is wrong."""
    from pipeline.build.console import table
    from pipeline.recipe.models import model_rows

    rows = [["model", "family", "params", "context", "licence", "from", "notes"]]
    for row in model_rows():
        billions = f"{row.parameters:g} B" if row.parameters else ""
        context = str(row.context_length) if row.context_length else ""
        rows.append([row.name, row.family, billions, context, row.licence, row.source, row.notes])
    print(table(rows, right=(2, 3)))
