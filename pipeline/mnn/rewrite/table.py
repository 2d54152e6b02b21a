"""Table → a constant in the weight file and a gather: a lookup table other than the token embedding (GPT-2's wpe)."""

from __future__ import annotations

from pipeline.errors import StageFailed
from pipeline.mnn.rewrite.graph import Json, Scope, attribute, node

_FLOAT32_BYTES = 4
_UNTYPED = {"Taxis": "DT_INVALID", "Tindices": "DT_INVALID", "Tparams": "DT_INVALID"}


def rewrite_table(operator: Json, scope: Scope) -> list[Json]:
    """Input: row numbers, int32 [...]; output float32 [..., columns]. Attributes: name, rows, columns."""
    name = scope.prefix + attribute(operator, "name")
    weight = scope.weight("tables", name)
    shape = [attribute(operator, "rows"), attribute(operator, "columns")]
    size = shape[0] * shape[1] * _FLOAT32_BYTES
    if weight["external"][1] != size:
        raise StageFailed(f"link: the table {name} has {weight['external'][1]} bytes in the weight file, not {size}")
    table = scope.new_tensor(f"{name}/table")
    # A third number keeps the converter away: it "loads" constants with exactly two from a file that is not there
    # and leaves zeros. The engine itself reads the first two.
    blob = {"dims": shape, "dataFormat": "NCHW", "dataType": "DT_FLOAT", "external": [*weight["external"], 0]}
    axis = scope.new_tensor(f"{name}/axis")
    zero = {"dims": [], "dataFormat": "NCHW", "dataType": "DT_INT32", "int32s": [0]}
    rows = operator["inputIndexes"][0]
    return [
        node(f"{name}/table", "Const", [], [table], "Blob", blob),
        node(f"{name}/axis", "Const", [], [axis], "Blob", zero),
        node(name, "GatherV2", [table, rows, axis], operator["outputIndexes"], "GatherV2", dict(_UNTYPED)),
    ]
