"""Safetensors by their header: an 8-byte little-endian length, then JSON (safetensors' README, "Format")."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.checkpoint.tensor import NUMPY_DTYPES, Array, ByteFile, FileTensor
from pipeline.errors import StageFailed

# The format's own limit (safetensors, `MAX_HEADER_SIZE`): a longer header is damage or an attack.
MAX_HEADER = 100_000_000
AGAIN = "download or copy the file again"


def read_safetensors(path: Path) -> dict[str, FileTensor]:
    """All tensors of one file, none of them read. Raises StageFailed for a damaged, truncated or overlapping file."""
    file = ByteFile(path)
    if file.size < 8:
        raise StageFailed(f"{path.name} is {file.size} bytes long: not a safetensors file", AGAIN)
    (length,) = struct.unpack("<Q", file.read(0, 8).tobytes())
    if length > min(MAX_HEADER, file.size - 8):
        raise StageFailed(f"{path.name}: its header claims {length} bytes, the file has {file.size}", AGAIN)
    header = _header(file.read(8, length).tobytes(), path.name)
    tensors = {name: _tensor(file, 8 + length, name, entry) for name, entry in header.items()}
    _check_layout(tensors, file, 8 + length)
    return tensors


def read_shards(paths: Iterable[Path], weight_map: Mapping[str, str] | None) -> dict[str, FileTensor]:
    """The tensors of several files; `weight_map` (tensor → file name) must agree with them when it is given."""
    tensors: dict[str, FileTensor] = {}
    for path in sorted(paths):
        for name, tensor in read_safetensors(path).items():
            if name in tensors:
                raise StageFailed(
                    f"{name} is in two shards, {tensors[name].file.path.name} and {path.name}",
                    "remove the shard that does not belong to this model",
                )
            tensors[name] = tensor
    if weight_map is not None:
        _check_map(tensors, weight_map)
    return tensors


def write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` (bfloat16, float16 or float32) sorted by name: the same values give the same bytes."""
    names = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
    header: dict[str, Any] = {}
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(arrays):
            file.write(np.ascontiguousarray(arrays[name]).tobytes())


def _header(content: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(content)
        header.pop("__metadata__", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise StageFailed(f"{where}: its header is not JSON ({error})", AGAIN) from error
    return dict(header)


def _tensor(file: ByteFile, base: int, name: str, entry: Any) -> FileTensor:
    where = f"{file.path.name}: {name}"
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(axis) for axis in entry["shape"])
        first, last = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise StageFailed(f"{where} has no dtype, shape and data_offsets in the header", AGAIN) from error
    if dtype not in NUMPY_DTYPES:
        raise StageFailed(f"{where} has the dtype {dtype}, which is not read here", "convert the checkpoint to BF16")
    if min(shape, default=0) < 0 or last - first != int(np.prod(shape, dtype=object)) * NUMPY_DTYPES[dtype].itemsize:
        raise StageFailed(f"{where}: {last - first} bytes cannot be {dtype} {list(shape)}", AGAIN)
    if first < 0 or base + last > file.size:
        raise StageFailed(f"{where} ends at byte {base + last}, the file at {file.size}: it is truncated", AGAIN)
    return FileTensor(file, base + first, shape, dtype)


def _check_layout(tensors: Mapping[str, FileTensor], file: ByteFile, base: int) -> None:
    """The format demands tensors that follow each other without gap or overlap, up to the file's end."""
    end = base
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, _size(item[1]))):
        if tensor.offset != end:
            what = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise StageFailed(f"{file.path.name}: {name} {what} (byte {tensor.offset}, expected {end})", AGAIN)
        end += _size(tensor)
    if end != file.size:
        raise StageFailed(f"{file.path.name} has {file.size - end} bytes after its last tensor", AGAIN)


def _size(tensor: FileTensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * NUMPY_DTYPES[tensor.dtype].itemsize


def _check_map(tensors: Mapping[str, FileTensor], weight_map: Mapping[str, str]) -> None:
    for name, file_name in sorted(weight_map.items()):
        if name not in tensors or tensors[name].file.path.name != file_name:
            raise StageFailed(f"the index says that {name} is in {file_name}; it is not", AGAIN)
    if extra := sorted(set(tensors) - set(weight_map)):
        raise StageFailed(f"the shards hold {extra[0]}, which the index does not name", AGAIN)
