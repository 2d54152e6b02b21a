"""MiniCPM-V 4.6: SigLIP over patches of any grid, windows of 2 x 2 patches merged inside the encoder, and a merger.

The engine's branch of patches (Qwen2-VL's) says of each patch in which row and column it is, and gives those of 2 x 2
next to each other; the picture's size is the largest of each. What transformers works out of that size, the learned
positions and the order of the merged tokens, is worked out here in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.vision_utils import get_vision_nearest_position_ids

from pipeline.graph.decoder import Decoder
from pipeline.graph.model import Model
from pipeline.graph.towers.tower import (
    Given,
    Tensors,
    Tower,
    normalisation,
    picture_tokens,
    processor,
    require,
    token_text,
)
from pipeline.graph.tracer import Options

PATCH = 14  # the engine's (MNN: omni.cpp, qwen2VisionProcess)
WINDOW = 4  # patches of a window of 2 x 2, and tokens that the merger makes one of
LARGEST_GRID = 512  # patches a side; slices of the longest picture that `pipeline.media` lets in have 444
# transformers: configuration_minicpmv4_7.py and image_processing_minicpmv4_6.py name them.
WORDS = {
    "start": "<image>",
    "end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "number_start": "<image_id>",
    "number_end": "</image_id>",
}
SLICES = (
    "pictures: the engine writes no picture numbers and cuts no slices; `python -m pipeline` does both itself, a "
    "program of your own gives each slice with <hw> in multiples of {unit} and writes the words around it"
)

Behind = Callable[[torch.Tensor], torch.Tensor]


def decoder(config: PretrainedConfig, options: Options) -> Decoder:
    """See tower.py. Qwen3.5's, whose positions count every token of a picture: its three axes are one here."""
    return Decoder()


def tower(model: Model, folder: Path, options: Options) -> Tower:
    """See tower.py."""
    return encoder(model, folder)


def encoder(
    model: Model,
    folder: Path,
    behind: Behind | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    notes: tuple[str, ...] = (),
) -> Tower:
    """behind: what to write behind a slice's rows, float32 [tokens, n], by their rows and columns [2, tokens]. facts:
    further ones for the product's visual.json."""
    config, inner = model.config, model.model
    merges = config.downsample_mode != "4x"
    _check(config, merges)
    side = inner.vision_tower.embeddings.num_patches_per_side
    patches = WINDOW**2 if merges else WINDOW  # to a token
    _window_by_window(inner.vision_tower.vit_merger.self_attn)
    _without_mask(inner.vision_tower.encoder.layers[config.insert_layer_id + 1 :] if merges else ())

    def call(given: Tensors) -> list[torch.Tensor]:
        rows = _rows(inner, given, side, merges)
        if behind is not None:
            rows = torch.cat([rows, behind(_merged(given["position_ids"], merges))], -1)
        return [rows.unsqueeze(1)]

    unit = PATCH * (4 if merges else 2)
    return Tower(
        kind="visual",
        roots=("model.vision_tower", "model.merger"),
        inputs=(
            Given("patches", lambda length: (patches * length, 3 * 2 * PATCH * PATCH)),
            Given("position_ids", lambda length: (2, patches * length), torch.int64),
            Given("attention_mask", lambda length: (1, patches * length, patches * length)),
        ),
        outputs=("image_embeds",),
        call=call,
        engine=_engine_keys(config, folder),
        preprocessing={**_preprocessing(config, folder, unit), **facts},
        notes=(SLICES.format(unit=unit), *notes),
    )


def _rows(inner: Any, given: Tensors, side: int, merges: bool) -> torch.Tensor:
    """float32 [tokens, hidden], row by row of the slice. merges: whether the encoder makes its windows one token each
    (16 patches a token), or leaves that to the merger alone (4)."""
    places = given["position_ids"]
    count = int(places.shape[1])
    states = inner.vision_tower(
        _pixels(given["patches"]),
        target_sizes=torch.tensor([[2, count // 2]]),  # of a slice of as many patches: the windows are counted by it
        use_vit_merger=merges,
        position_ids=_learned(places, side),
        cu_seqlens=given["attention_mask"],
        max_seqlen=1,
        window_index=_AsTheyLie(),
        cu_window_seqlens=torch.arange(0, count + 1, WINDOW),
    ).last_hidden_state[0]
    if merges:
        states = torch.index_select(states, 0, _blocks(places))
    rows: torch.Tensor = inner.merger.mlp[0](states.reshape(-1, WINDOW * int(states.shape[-1])))
    return rows


def _merged(places: torch.Tensor, merges: bool) -> torch.Tensor:
    """int64 [2, tokens]: rows and columns of the tokens that the merger makes."""
    windows = places.reshape(2, -1, WINDOW)[:, :, 0] // 2
    return torch.index_select(windows, 1, _blocks(places)).reshape(2, -1, WINDOW)[:, :, 0] // 2 if merges else windows


class _AsTheyLie:
    """In place of the order of the windows' patches: the engine gives them in it already."""

    def to(self, _: torch.device) -> slice:
        """What indexes everything, in its order."""
        return slice(None)


def _window_by_window(attention: torch.nn.Module) -> None:
    """Has the attention of the windows see each as an element of a batch, so that it needs no mask."""

    def apart(_: Any, args: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        states = given["hidden_states"]
        windows = states.reshape(-1, WINDOW, int(states.shape[-1]))
        return args, {"hidden_states": windows, "cu_seqlens": None, "max_seqlen": 1}

    def together(_: Any, args: Any, result: tuple[torch.Tensor, None]) -> tuple[torch.Tensor, None]:
        return result[0].reshape(1, -1, int(result[0].shape[-1])), None

    attention.register_forward_pre_hook(apart, with_kwargs=True)
    attention.register_forward_hook(together)


def _without_mask(layers: Any) -> None:
    """The engine's mask, all zeros, has a row for each patch; behind the windows there is one token for four."""

    def unmasked(_: Any, args: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**given, "cu_seqlens": None}

    for layer in layers:
        layer.register_forward_pre_hook(unmasked, with_kwargs=True)


def _pixels(patches: torch.Tensor) -> torch.Tensor:
    """float32 [N, 3 · 2 · 14 · 14], each pixel twice (the engine's two frames) → [1, 3, 14, N · 14], as packed by
    transformers' image processor."""
    once = patches.reshape(-1, 3, 2, PATCH, PATCH)[:, :, 0]
    return once.permute(1, 2, 0, 3).reshape(1, 3, PATCH, -1)


def _learned(places: torch.Tensor, side: int) -> torch.Tensor:
    """int64 [N]: which of the side x side learned positions a patch in row and column `places` [2, N] takes."""
    row, column = (places[axis] * side // (places[axis].max() + 1) for axis in (0, 1))
    return row * side + column


def _blocks(places: torch.Tensor) -> torch.Tensor:
    """int64 [N / 4]: the places of the windows' tokens, which lie row by row, in an order of 2 x 2 next to each other.

    In integers throughout: half precision could not tell the places of a large picture apart.
    """
    first = places.reshape(2, -1, WINDOW)[:, :, 0] // 2
    wide = first[1].max() + 1  # tokens in a row; blocks have two of them
    number = first[0] * wide + first[1]
    block, inside = number // WINDOW, number - number // WINDOW * WINDOW
    down = block // (wide // 2)
    right = block - down * (wide // 2)
    return (2 * down + inside // 2) * wide + 2 * right + inside - inside // 2 * 2


def _check(config: PretrainedConfig, merges: bool) -> None:
    vision = config.vision_config
    require(_both(vision.patch_size) == PATCH, f"patches of {vision.patch_size} pixels instead of {PATCH}")
    windows, rounds = vision.window_kernel_size, int(config.merger_times)
    require(_both(windows) == 2 or not merges, f"windows of {windows} patches instead of 2 x 2")
    require(_both(config.merge_kernel_size) == 2 and rounds == 1, "a merger of other than one round of 2 x 2")
    layers = int(vision.num_hidden_layers)
    require(
        0 <= int(config.insert_layer_id) < layers or not merges,
        f"windows merged after layer {config.insert_layer_id} of {layers}",
    )
    side = _both(vision.image_size) // PATCH
    require(_is_floor(side), f"{side} x {side} learned positions, which transformers does not pick by whole numbers")


def _both(size: Any) -> int:
    """The one number of a square; 0 if its sides differ."""
    sides = set(size) if isinstance(size, list | tuple) else {size}
    return int(sides.pop()) if len(sides) == 1 else 0


def _is_floor(side: int) -> bool:
    """Whether transformers' comparison of float fractions picks floor(side · i / n) for every place i of n.

    It does for 70 a side and for most others; for 27, rounding decides where a fraction meets a boundary.
    """
    counts = range(1, LARGEST_GRID + 1)
    picked = get_vision_nearest_position_ids(torch.tensor([[count, 1] for count in counts]), side)
    exact = torch.cat([torch.arange(count) * side // count for count in counts])
    return bool((picked == exact * side).all())


def _engine_keys(config: PretrainedConfig, folder: Path) -> dict[str, Any]:
    start, end, *_ = picture_tokens(folder, *WORDS.values())
    return {
        "is_visual": True,
        "image_size": 448,
        **normalisation(processor(folder)),
        "vision_start": start,
        "vision_end": end,
        "image_pad": int(config.image_token_id),
    }


def _preprocessing(config: PretrainedConfig, folder: Path, unit: int) -> dict[str, Any]:
    """What `pipeline.media` must know; defaults are those of transformers' image processor.

    Raises UserError for a processor that does other than it.
    """
    settings = processor(folder)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        require(settings.get(step, True) is True, f"a processor without {step}")
    patch, mode = int(settings.get("patch_size", PATCH)), settings.get("downsample_mode", "16x")
    require(patch == PATCH, f"a processor with patches of {patch}")
    require(
        (mode == "4x") == (config.downsample_mode == "4x"),
        f"a processor for {mode} before a model for {config.downsample_mode}",
    )
    return {
        "kind": "slices",
        "unit": unit,
        "scale": int(settings.get("scale_resolution", 448)),
        "slices": int(settings.get("max_slice_nums", 9)) if settings.get("slice_mode", True) else 1,
        "resample": int(settings.get("resample", 3)),
        "numbered": bool(settings.get("use_image_id", True)),
        "words": {**WORDS, "image": token_text(folder, int(config.image_token_id))},
    }
