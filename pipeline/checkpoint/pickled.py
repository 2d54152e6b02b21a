"""Pickled PyTorch weights (pytorch_model.bin) without running anything that they say.

torch.save writes a zip whose entries are not compressed: data.pkl describes the tensors, data/N holds the bytes of
storage N (torch: serialization.py, `_save`). The unpickler below knows the handful of names that a state dict needs and
refuses all others, so a file can describe tensors and do nothing else; bytes are read later, by pread.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.checkpoint.tensor import NUMPY_DTYPES, ByteFile, FileTensor
from pipeline.errors import StageFailed

STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
CONVERT = "convert the weights to safetensors"
LOCAL_HEADER = struct.Struct("<26xHH")  # of which only the lengths of name and extra field matter


@dataclass(frozen=True)
class Storage:
    """A storage's place: `key` names the zip entry, dtype the element type."""

    key: str
    dtype: str


@dataclass(frozen=True)
class Description:
    """A tensor as the pickle describes it; offset and stride in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled(paths: Iterable[Path]) -> dict[str, FileTensor]:
    """All tensors of one or several files, none of them read. StageFailed for anything but a plain state dict."""
    tensors: dict[str, FileTensor] = {}
    for path in sorted(paths):
        for name, tensor in _read_one(path).items():
            if name in tensors:
                raise StageFailed(
                    f"{name} is in two files, one of them {path.name}", "remove the one that is not needed"
                )
            tensors[name] = tensor
    return tensors


def _read_one(path: Path) -> dict[str, FileTensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            index = next(name for name in entries if name.endswith("/data.pkl") or name == "data.pkl")
            described = _unpickle(archive.read(index), path.name)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise StageFailed(
            f"{path.name} is not a file of torch.save (a zip with data.pkl), or it is cut short", CONVERT
        ) from error
    file = ByteFile(path)
    prefix = index.removesuffix("data.pkl")
    return {name: _place(file, entries, prefix, name, tensor) for name, tensor in described.items()}


def _place(
    file: ByteFile, entries: dict[str, zipfile.ZipInfo], prefix: str, name: str, tensor: Description
) -> FileTensor:
    entry = entries.get(f"{prefix}data/{tensor.storage.key}")
    size = NUMPY_DTYPES[tensor.storage.dtype].itemsize
    end = (tensor.offset + int(np.prod(tensor.shape, dtype=object))) * size
    if entry is None or entry.compress_type != zipfile.ZIP_STORED or tensor.offset < 0 or end > entry.file_size:
        raise StageFailed(f"{file.path.name}: the bytes of {name} are not where the file says", "download it again")
    if not _is_dense(tensor):
        raise StageFailed(f"{file.path.name}: {name} is a view with strides {list(tensor.stride)}", CONVERT)
    names, extra = LOCAL_HEADER.unpack(file.read(entry.header_offset, LOCAL_HEADER.size).tobytes())
    start = entry.header_offset + LOCAL_HEADER.size + names + extra
    return FileTensor(file, start + tensor.offset * size, tensor.shape, tensor.storage.dtype)


def _is_dense(tensor: Description) -> bool:
    expected = 1
    for axis, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if axis != 1 and stride != expected:
            return False
        expected *= axis
    return True


def _unpickle(content: bytes, where: str) -> dict[str, Description]:
    try:
        state = _Restricted(io.BytesIO(content), where).load()
    except StageFailed:
        raise
    except Exception as error:  # a crafted pickle can raise whatever it likes
        raise StageFailed(f"{where}: its pickle cannot be read ({type(error).__name__})", CONVERT) from error
    if not isinstance(state, dict) or not all(isinstance(value, Description) for value in state.values()):
        raise StageFailed(f"{where} is not a state dict (a mapping from names to tensors)", CONVERT)
    return {str(name): value for name, value in state.items()}


class _Restricted(pickle.Unpickler):
    """Knows ordered dicts, storages and the function that makes a tensor of one."""

    def __init__(self, file: io.BytesIO, where: str) -> None:
        super().__init__(file)
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise StageFailed(
            f"{self._where} asks for {module}.{name}, which weights do not need", f"do not open it; {CONVERT}"
        )

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in NUMPY_DTYPES:
            raise StageFailed(f"{self._where}: a reference to {kind} {dtype}", CONVERT)
        return Storage(str(key), dtype)


def _rebuild_tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Description:
    return Description(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))
