"""transformers' image processors that there are for torchvision only, with or without torchvision.

Of torchvision they use a resize, a normalisation and some names. The resize of 8-bit pixels is torch's own
`interpolate`; so where torchvision is not installed (its builds do not fit every build of torch), these few lines stand
in its place, and everything else that runs is the processor's own code.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PROCESSORS = {"lfm2_vl": ("transformers.models.lfm2_vl.image_processing_lfm2_vl", "Lfm2VlImageProcessor")}
_FUNCTIONS = "torchvision.transforms.v2.functional"


class InterpolationMode:
    """torchvision's names of filters, as torch's `interpolate` knows them."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def resize(image: torch.Tensor, size: Sequence[int], interpolation: str, antialias: bool = True) -> torch.Tensor:
    """uint8 [batch, channels, height, width] → the same of `size`, (height, width)."""
    return torch.nn.functional.interpolate(image, size=tuple(size), mode=interpolation, antialias=antialias)


def normalize(image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """(image − mean) / std; image float32 [batch, channels, height, width], mean and std [channels]."""
    return (image - mean[:, None, None]) / std[:, None, None]


def processor(model_type: str, source: Path) -> Any:
    """The image processor of the folder `source`, of a family in PROCESSORS."""
    module, name = PROCESSORS[model_type]
    found: Any = importlib.import_module(module) if find_spec("torchvision") else _imported_without(module)
    return getattr(found, name).from_pretrained(str(source))


def _imported_without(module: str) -> ModuleType:
    """The module of an image processor, and its base class, with the lines above for torchvision's functions."""
    from PIL.Image import Resampling
    from transformers import image_processing_backends as base

    functions = ModuleType(_FUNCTIONS)
    vars(functions).update(InterpolationMode=InterpolationMode, resize=resize, normalize=normalize)
    vars(base).update(tvF=functions, pil_torch_interpolation_mapping={Resampling.BILINEAR: InterpolationMode.BILINEAR})
    with _there(functions):
        return importlib.import_module(module)


@contextmanager
def _there(functions: ModuleType) -> Iterator[None]:
    """While open, `torchvision.transforms.v2.functional` can be imported; afterwards torchvision is missing again."""
    parts = _FUNCTIONS.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts))]
    sys.modules.update({name: ModuleType(name) for name in names})
    sys.modules[_FUNCTIONS] = vars(sys.modules[names[-1]])["functional"] = functions
    try:
        yield
    finally:
        for name in (*names, _FUNCTIONS):
            del sys.modules[name]
