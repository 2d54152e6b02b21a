"""`doit quants`: what conf/quant/ offers."""

from __future__ import annotations

from typing import Any

from tasks.failures import guarded


def task_quants() -> dict[str, Any]:
    """weight precisions that can be built, from conf/"""
    return {"actions": [guarded("quants", show)], "io": {"capture": False}}


def show() -> None:
    """The action. Raises UserError that names a YAML that is wrong."""
    from pipeline.build.console import table
    from pipeline.recipe.quants import quant_rows

    rows = [["quant", "algorithm", "bits", "block", "lm_head", "bits/weight", "notes"]]
    for row in quant_rows():
        head = "" if row.lm_bits is None else str(row.lm_bits)
        block = str(row.block) if row.block else "channel"
        rows.append([row.name, row.algorithm, str(row.bits), block, head, f"{row.bits_per_weight:.2f}", row.notes])
    print(table(rows, right=(2, 3, 4, 5)))
