"""bitsandbytes checkpoints: 4-bit (nf4, fp4, nested or not) and LLM.int8, dequantised.

4-bit, per linear: weight uint8 [out·in/2, 1], the first value in the high nibble; quant_map, 16 values; absmax, one for
each run of `blocksize` values of the flattened matrix; w = quant_map[code]·absmax. Nested: absmax is itself a code into
nested_quant_map times nested_absmax of its run of `nested_blocksize`, plus nested_offset (bitsandbytes:
functional.QuantState.as_dict, dequantize_4bit). int8: weight int8 [out, in] and SCB, each row's largest magnitude;
w = code·SCB/127 (functional.int8_vectorwise_dequant). The 4-bit map is not linear, so the engine cannot hold its codes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.checkpoint.tensor import Array, FileTensor, LazyTensor, to_float32
from pipeline.errors import StageFailed

F32 = npt.NDArray[np.float32]
STATE = "quant_state.bitsandbytes__"
PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
INT8_STEP = np.float32(1 / 127)
AGAIN = "download the checkpoint again"


@dataclass(frozen=True)
class FourBitTensor:
    """A matrix [out, in] of 4-bit codes into a table of 16 values."""

    codes: FileTensor
    parts: Mapping[str, FileTensor]
    state: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) as float32."""
        first, last, _ = slice(start, stop).indices(self.shape[0])
        last, columns = max(first, last), self.shape[1]
        block = int(self.state["blocksize"])
        low, high = first * columns, last * columns
        packed = self.codes.file.read(self.codes.offset + low // 2, -(-high // 2) - low // 2)
        nibbles = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[low % 2 :][: high - low]
        values = to_float32(self.parts["quant_map"].read())[nibbles]
        scales = self._scales(low // block, -(-high // block))
        places = np.arange(low, high) // block - low // block
        return np.asarray(values * scales[places], np.float32).reshape(last - first, columns)

    def _scales(self, first: int, last: int) -> F32:
        """absmax of runs [first, last), float32."""
        stored = self.parts["absmax"].read(first, last)
        if "nested_absmax" not in self.parts:
            return to_float32(stored)
        outer = to_float32(self.parts["nested_absmax"].read())
        values = to_float32(self.parts["nested_quant_map"].read())[stored]
        runs = np.arange(first, last) // int(self.state["nested_blocksize"])
        return np.asarray(values * outer[runs] + np.float32(self.state["nested_offset"]), np.float32)


@dataclass(frozen=True)
class EightBitTensor:
    """LLM.int8: int8 [out, in] and each row's largest magnitude, float32 [out]."""

    codes: FileTensor
    largest: FileTensor
    dtype: str = "BNB_INT8"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Rows [start, stop) as float32."""
        steps = to_float32(self.largest.read(start, stop)) * INT8_STEP
        return np.asarray(to_float32(self.codes.read(start, stop)) * steps[:, None], np.float32)


def open_bitsandbytes(raw: Mapping[str, FileTensor], config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The file's tensors with every quantised linear as one `.weight`. StageFailed for parts that do not fit."""
    tensors: dict[str, LazyTensor] = dict(raw)
    for name in [name for name in raw if f".{STATE}" in name]:
        weight = name[: name.index(f".{STATE}")]
        tensors[weight] = _four_bit(raw, weight, name)
        for part in (*PARTS, name.removeprefix(f"{weight}.")):
            tensors.pop(f"{weight}.{part}", None)
    for name in [name for name in raw if name.endswith(".SCB")]:
        module = name.removesuffix(".SCB")
        tensors[f"{module}.weight"] = _eight_bit(raw, module)
        tensors.pop(name)
        tensors.pop(f"{module}.weight_format", None)
    if tensors.keys() == raw.keys():
        raise StageFailed("the config says bitsandbytes, and no tensor has its parts beside it", "check the folder")
    return tensors


def _four_bit(raw: Mapping[str, FileTensor], weight: str, state_name: str) -> FourBitTensor:
    try:
        state = json.loads(raw[state_name].read().tobytes())
        shape, block = tuple(int(axis) for axis in state["shape"]), int(state["blocksize"])
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"bitsandbytes: {state_name} is not its description ({error})", AGAIN) from error
    nested = "nested_blocksize" in state
    names = PARTS if nested else PARTS[:2]
    missing = [part for part in names if f"{weight}.{part}" not in raw]
    if missing or weight not in raw:
        raise StageFailed(f"bitsandbytes: {weight} has no {missing[0] if missing else 'codes'}", AGAIN)
    parts = {part: raw[f"{weight}.{part}"] for part in names}
    count = int(np.prod(shape))
    runs = -(-count // block)
    fits = int(np.prod(raw[weight].shape)) == -(-count // 2) and int(np.prod(parts["absmax"].shape)) == runs
    if len(shape) != 2 or not fits or raw[weight].dtype != "U8" or parts["quant_map"].shape != (16,):
        raise StageFailed(f"bitsandbytes: the parts of {weight} do not make up {list(shape)}", AGAIN)
    return FourBitTensor(raw[weight], parts, state, shape, f"BNB_{str(state.get('quant_type', '4bit')).upper()}")


def _eight_bit(raw: Mapping[str, FileTensor], module: str) -> EightBitTensor:
    codes, largest = raw.get(f"{module}.weight"), raw[f"{module}.SCB"]
    if codes is None or codes.dtype != "I8" or largest.shape != codes.shape[:1]:
        raise StageFailed(f"bitsandbytes: {module}.SCB has no int8 weight of as many rows beside it", AGAIN)
    return EightBitTensor(codes, largest)
