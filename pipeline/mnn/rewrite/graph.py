"""What a rewriter sees of the graph: tensor names, who produces and who consumes a tensor, the weight file's places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import StageFailed

if TYPE_CHECKING:
    from pipeline.mnn.rewrite.low_rank import LowRank

Json = dict[str, Any]


@dataclass
class Scope:
    """A net, or one of its subgraphs, while its placeholders are replaced.

    operators, tensors: the lists of the skeleton's JSON; a rewriter appends tensors through `new_tensor`.
    linears, tables: places.json's entries by placeholder name. prefix: what stands before a placeholder's name (an
    expert's number in a MoE subgraph). dead: numbers (id) of operators that a rewriter has absorbed.
    used: names of the placeholders met so far. add_expert: clones a MoE template (moe.py) into the net's subgraphs.
    adapter: a split LoRA's change by linear (lora.py); adapted: those that have found their linear; values: weights and
    biases of the operators made for them, which go into the finished file.
    packed: tensors of the skeleton that are written in NC4HW4 [rows, features, 1, 1], ready for a convolution.
    """

    operators: list[Json]
    tensors: list[str]
    linears: Mapping[str, Json]
    tables: Mapping[str, Json]
    prefix: str = ""
    used: set[str] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    add_expert: Callable[[str, str, str], None] | None = None
    adapter: Mapping[str, LowRank] = field(default_factory=dict)
    adapted: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    packed: set[int] = field(default_factory=set)
    _producers: dict[int, Json] = field(default_factory=dict)
    _consumers: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._producers = {tensor: op for op in self.operators for tensor in op.get("outputIndexes", [])}
        self._consumers = Counter(tensor for op in self.operators for tensor in op.get("inputIndexes", []))

    def new_tensor(self, name: str) -> int:
        """The number of a new tensor."""
        self.tensors.append(name)
        return len(self.tensors) - 1

    def producer(self, tensor: int) -> Json | None:
        """The operator that writes `tensor`."""
        return self._producers.get(tensor)

    def only_consumer(self, tensor: int) -> bool:
        """True if one operator input reads `tensor`, so that its producer may be absorbed."""
        return self._consumers[tensor] == 1

    def weight(self, kind: str, name: str) -> Json:
        """places.json's entry for a placeholder of `kind` "linears" or "tables"; StageFailed if there is none."""
        entries = self.linears if kind == "linears" else self.tables
        if name not in entries:
            raise StageFailed(f"link: the graph's placeholder {name} has no entry under {kind} in places.json")
        self.used.add(name)
        return entries[name]


def attributes(operator: Json) -> Json:
    """An Extra operator's attributes as a dict: strings, ints, floats, and lists of ints."""
    return {entry["key"]: _value(entry) for entry in operator["main"].get("attr", [])}


def attribute(operator: Json, key: str) -> Any:
    """One attribute of a placeholder; StageFailed that names placeholder and key if it is missing."""
    values = attributes(operator)
    if key not in values:
        kind = operator["main"].get("type")
        raise StageFailed(f"link: the placeholder {kind} {operator.get('name')} has no attribute '{key}'")
    return values[key]


def node(name: str, kind: str, inputs: list[int], outputs: list[int], main_type: str, main: Json) -> Json:
    """An operator in the converter's JSON form."""
    return {
        "inputIndexes": inputs,
        "main_type": main_type,
        "main": main,
        "name": name,
        "outputIndexes": outputs,
        "type": kind,
        "defaultDimentionFormat": "NHWC",
    }


def reshape(name: str, source: int, target: int, dims: list[int]) -> Json:
    """A Reshape to constant `dims` in NCHW order."""
    return node(name, "Reshape", [source], [target], "Reshape", {"dims": dims, "dimType": "NCHW"})


def convert(name: str, source: int, target: int, before: str, after: str) -> Json:
    """A change of memory layout, between "NCHW" and "NC4HW4"."""
    main = {"source": before, "dest": after}
    return node(name, "ConvertTensor", [source], [target], "TensorConvertInfo", main)


def packed_input(name: str, source: int, in_features: int, scope: Scope) -> tuple[list[Json], int]:
    """Operators that bring `source` [..., in_features] into the layout of convolutions, and the resulting tensor."""
    if source in scope.packed:
        return [], source
    rows, packed = scope.new_tensor(f"{name}_reshape"), scope.new_tensor(f"{name}_convert")
    return [
        reshape(f"{name}_reshape", source, rows, [-1, in_features, 1, 1]),
        convert(f"{name}_convert", rows, packed, "NCHW", "NC4HW4"),
    ], packed


def _value(entry: Json) -> Any:
    if "s" in entry:
        return entry["s"]
    if "list" in entry:
        return entry["list"].get("i", entry["list"].get("f", []))
    return entry.get("i") or entry.get("f") or 0
