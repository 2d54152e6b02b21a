"""How the files beside this were made: one linear, packed by three libraries.

auto-gptq 0.7.1, autoawq 0.2.7.post3, compressed-tensors 0.20.0.

    python write.py FOLDER      in an environment with torch and those three (installed with --no-deps)

Each file holds the module's tensors under "m." as the library packs them, and `input`, the float32 weight [out, in]
that it was given: a point of the lattice, so that nothing is lost by packing. `config` of the file's metadata is the
quantization_config that the library writes. The packages' own `__init__` are passed by: they import CUDA extensions.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OUT, IN, GROUP = 32, 64, 32


def packages(*names: str) -> None:
    """Empty packages in the places of real ones, so that single modules of them can be imported."""
    root = Path(str(find_spec(names[0]).origin)).parents[1]  # type: ignore[union-attr]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root / name.replace(".", "/"))]


def lattice(bits: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scales and zero points [out, groups], the weight on their lattice)."""
    torch.manual_seed(bits)
    blocks = torch.randn(OUT, IN // GROUP, GROUP)
    low, high, most = blocks.amin(-1), blocks.amax(-1), 2**bits - 1
    scale = (torch.maximum(high, -low) * 2 / most if symmetric else (high - low) / most).half().float()
    point = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else torch.round(-low / scale)
    codes = torch.clamp(torch.round(blocks / scale[..., None]) + point[..., None], 0, most)
    return scale, point, ((codes - point[..., None]) * scale[..., None]).reshape(OUT, IN)


def linear(weight: torch.Tensor) -> torch.nn.Linear:
    module = torch.nn.Linear(IN, OUT, bias=False)
    module.weight.data = weight.clone()
    return module


def write(path: Path, tensors: dict[str, torch.Tensor], weight: torch.Tensor, config: dict[str, Any]) -> None:
    named = {f"m.{name}": value.contiguous() for name, value in tensors.items()}
    save_file({**named, "input": weight}, path, {"config": json.dumps(config)})


def gptq(folder: Path) -> None:
    packages("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear")
    kind = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda_old").QuantLinear
    for bits, symmetric in ((2, False), (3, False), (4, True), (4, False), (8, False)):
        scale, point, weight = lattice(bits, symmetric)
        packed = kind(bits, GROUP, IN, OUT, False, use_cuda_fp16=False)
        packed.pack(linear(weight), scale.clone(), point.clone(), None)
        tensors = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
        config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": symmetric, "desc_act": False}
        write(folder / f"gptq{bits}{'-symmetric' if symmetric else ''}.safetensors", tensors, weight, config)


def awq(folder: Path) -> None:
    packages("awq", "awq.utils", "awq.modules")
    kind = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    scale, point, weight = lattice(4, False)
    packed = kind.from_linear(linear(weight).half(), 4, GROUP, False, scale.t().contiguous(), point.t().contiguous())
    tensors = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
    write(folder / "awq4.safetensors", tensors, weight, config)


def compressed(folder: Path) -> None:
    quantization = importlib.import_module("compressed_tensors.quantization")
    kind = importlib.import_module("compressed_tensors.compressors.pack_quantized.base").PackedQuantizationCompressor
    for bits, symmetric in ((4, True), (4, False), (8, False)):
        scale, point, weight = lattice(bits, symmetric)
        arguments = quantization.QuantizationArgs(
            num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=GROUP
        )
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
        zero = (point - 2 ** (bits - 1)).to(torch.int8)
        given = {"weight": weight.clone(), "weight_scale": scale.half(), "weight_zero_point": zero}
        groups = {"group_0": json.loads(scheme.model_dump_json())}
        config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
        name = f"compressed{bits}{'-symmetric' if symmetric else ''}.safetensors"
        write(folder / name, kind.compress(given, scheme), weight, config)


if __name__ == "__main__":
    for make in (gptq, awq, compressed):
        make(Path(sys.argv[1]))
