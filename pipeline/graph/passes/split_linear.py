"""One linear whose output is only ever cut up → one linear per piece (fused q/k/v, fused gate and up).

The engine's fusions know linears, not slices of them.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.graph.ir import Graph, Node, Part, Value


def split_linears(graph: Graph) -> None:
    """Splits every such linear, also where the output is first reshaped to heads and each head is cut."""
    consumers = graph.consumers()
    for node in list(graph.nodes):
        if node.linear is not None and node.output not in graph.outputs.values():
            _split(graph, node, consumers)


def _split(graph: Graph, node: Node, consumers: dict[Value, list[Node]]) -> None:
    readers = consumers[node.output]
    heads, source = 1, node.output
    if len(readers) == 1 and readers[0].op == "Reshape":
        source = readers[0].output
        readers = consumers[source]
        size = source.shape[-1]
        if source in graph.outputs.values() or not isinstance(size, int) or node.linear is None:
            return
        heads, rest = divmod(node.linear.out_features, size)
        if rest:
            return
    if len(readers) < 2 or not all(_is_piece(reader, source) for reader in readers):
        return
    place = graph.nodes.index(node)
    for number, reader in enumerate(readers):
        graph.nodes[place:place] = _piece(node, reader, number, heads)
        place = graph.nodes.index(node)
        graph.nodes.remove(reader)
    graph.nodes.remove(node)


def _is_piece(reader: Node, source: Value) -> bool:
    """A slice of whole runs along the last axis."""
    at = reader.attributes
    bounds = [at.get("start"), at.get("stop")]
    return (
        reader.op == "Slice"
        and at["axis"] == source.rank - 1
        and at["step"] == 1
        and all(isinstance(bound, int) for bound in bounds)
    )


def _piece(node: Node, reader: Node, number: int, heads: int) -> list[Node]:
    """The linear of one slice and, if the slice was taken head by head, a reshape of its output to heads."""
    assert node.linear is not None
    start, stop = int(reader.attributes["start"]), int(reader.attributes["stop"])  # type: ignore[arg-type]
    size = node.linear.out_features // heads
    runs = [(head * size + start, head * size + stop) for head in range(heads)]
    linear = replace(
        node.linear,
        name=f"{node.linear.name}.{number}",
        out_features=heads * (stop - start),
        parts=_rows(node.linear.parts, runs),
        bias=None if node.linear.bias is None else _rows(node.linear.bias, runs),
    )
    flat = Value((*node.output.shape[:-1], linear.out_features))
    new = Node(node.op, list(node.inputs), [flat], {}, node.domain, linear)
    if flat.shape == reader.output.shape:
        new.outputs = [reader.output]
        return [new]
    return [new, Node("Reshape", [flat], [reader.output], {"shape": reader.output.shape})]


def _rows(parts: tuple[Part, ...], runs: list[tuple[int, int]]) -> tuple[Part, ...]:
    """`runs` of output rows, of a linear that so far is one whole parameter."""
    (part,) = parts
    return tuple(replace(part, rows=run) for run in runs)
