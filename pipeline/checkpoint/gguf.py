"""The tensors of a GGUF model, of one file or several, under Hugging Face names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.checkpoint.gguf_header import GgufHeader, TensorInfo, read_header
from pipeline.checkpoint.gguf_lattice import LATTICES, GgufLattice
from pipeline.checkpoint.gguf_names import Architecture, architecture, huggingface_name
from pipeline.checkpoint.gguf_tensor import DENSE, GgufTensor, tensor_bytes
from pipeline.checkpoint.tensor import ByteFile, LazyTensor
from pipeline.errors import StageFailed


def open_gguf(paths: Iterable[Path]) -> dict[str, LazyTensor]:
    """Every tensor of a GGUF model (one file, or all parts of a split) by Hugging Face name, none of them read."""
    headers = [read_header(path) for path in sorted(paths)]
    check_parts(headers)
    metadata = headers[0].metadata
    table = architecture(str(metadata.get("general.architecture")))
    tensors: dict[str, LazyTensor] = {}
    for header in headers:
        for name, info in header.tensors.items():
            for key, tensor in _named(header, name, info, table, metadata):
                if key in tensors:
                    raise StageFailed(f"{key} is twice in the GGUF model", "download the file again")
                tensors[key] = tensor
    return tensors


def check_parts(headers: list[GgufHeader]) -> None:
    """A split's parts each know how many there are (gguf-split: split.count, split.no)."""
    count = int(headers[0].metadata.get("split.count", 1) or 1)
    numbers = sorted(int(header.metadata.get("split.no", 0)) for header in headers)
    if numbers != list(range(count)):
        raise StageFailed(
            f"{headers[0].file.path.name} is one of {count} parts, and {len(headers)} are here",
            "bring all parts of the split GGUF together",
        )


def _named(
    header: GgufHeader, name: str, info: TensorInfo, table: Architecture, metadata: Any
) -> Iterable[tuple[str, LazyTensor]]:
    """(Hugging Face name, tensor) pairs of one stored tensor: none for a RoPE table, one per expert for a stack."""
    key = huggingface_name(name, table)
    if key is None:
        return
    dtype = _type_name(info.kind, name)
    end = info.offset + tensor_bytes(info.shape, dtype)
    if end > header.file.size:
        raise StageFailed(
            f"{header.file.path.name}: {name} ends at byte {end}, the file at {header.file.size}: it is truncated",
            "download or copy the file again",
        )
    heads = _heads(name, metadata) if table.permuted_qk else 0
    offset = -table.norm_offset if name.endswith("norm.weight") else 0.0
    shape = (1, *info.shape) if name.endswith("ffn_gate_inp_shexp.weight") and len(info.shape) == 1 else info.shape
    if "{}" not in key:
        yield key, _tensor(header.file, info.offset, shape, dtype, heads, offset)
        return
    size = tensor_bytes(shape[1:], dtype)
    for expert in range(shape[0]):
        yield key.format(expert), _tensor(header.file, info.offset + expert * size, shape[1:], dtype)


def _tensor(
    file: ByteFile, position: int, shape: tuple[int, ...], dtype: str, heads: int = 0, offset: float = 0.0
) -> GgufTensor:
    kind = GgufLattice if dtype in LATTICES and len(shape) == 2 else GgufTensor
    return kind(file, position, shape, dtype, heads, offset)


def _heads(name: str, metadata: Any) -> int:
    leaf = name.split(".")[-2]
    arch = metadata["general.architecture"]
    heads = metadata[f"{arch}.attention.head_count"]
    if leaf == "attn_q":
        return int(heads)
    return int(metadata.get(f"{arch}.attention.head_count_kv", heads)) if leaf == "attn_k" else 0


def _type_name(kind: int, name: str) -> str:
    from gguf import GGMLQuantizationType
    from gguf.quants import _type_traits as readable

    try:
        quantisation = GGMLQuantizationType(kind)
    except ValueError as error:
        raise StageFailed(f"{name} has ggml type {kind}, which gguf does not know", "update gguf") from error
    if quantisation.name not in DENSE and quantisation not in readable:
        raise StageFailed(
            f"{name} has ggml type {quantisation.name}, which gguf cannot dequantise",
            "use another quantisation of this model",
        )
    return str(quantisation.name)
