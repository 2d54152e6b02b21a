"""Checkpoints whose config says that they are quantised: which overlay reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.checkpoint.awq import open_awq
from pipeline.checkpoint.bitsandbytes import open_bitsandbytes
from pipeline.checkpoint.compressed_tensors import open_compressed
from pipeline.checkpoint.fp8 import open_fp8
from pipeline.checkpoint.gptq import open_gptq
from pipeline.checkpoint.tensor import FileTensor, LazyTensor
from pipeline.errors import StageFailed

METHODS: dict[str, Callable[[Mapping[str, FileTensor], Mapping[str, Any]], dict[str, LazyTensor]]] = {
    "gptq": open_gptq,
    "awq": open_awq,
    "compressed-tensors": open_compressed,
    "fp8": open_fp8,
    "bitsandbytes": open_bitsandbytes,
}


def dequantised(raw: Mapping[str, FileTensor], config: Mapping[str, Any] | None) -> dict[str, LazyTensor]:
    """`raw` as a checkpoint of plain names. config: the model's quantization_config, None for a plain model.

    Raises StageFailed for a method that is not read here, and for quantised tensors that no config explains.
    """
    if not config:
        strange = [name for name, tensor in raw.items() if tensor.dtype.startswith("F8") or name.endswith(".qweight")]
        if strange:
            raise StageFailed(f"{strange[0]} is quantised, and config.json has no quantization_config", "complete it")
        return dict(raw)
    method = str(config.get("quant_method"))
    if method not in METHODS:
        raise StageFailed(
            f"checkpoints quantised with {method} are not read here",
            f"use the unquantised model, or one of {', '.join(METHODS)} or GGUF",
        )
    return METHODS[method](raw, config)


def quantisation_config(config: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """From config.json's quantization_config, else AutoGPTQ's own quantize_config.json (`beside`)."""
    found = config.get("quantization_config") or config.get("compression_config")
    if found:
        return dict(found)
    return {"quant_method": "gptq", **beside} if beside else None
