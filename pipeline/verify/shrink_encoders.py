"""The encoders and special tokens in the small copy of its config (shrink.py does the decoder)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.graph.towers.tower_files import PROCESSORS

LAYERS = 2
TOKENS_A_SIDE = 4  # of a picture that has one size only
SLICE = 112  # pixels a side of slices, so that the self-check's pictures are cut
DEEPSTACK = 3  # the first decoder layers take these features: the small decoder must have as many, and one more
FIRST = 256  # ids behind the bytes of the small tokeniser
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
TOKENS = (
    *("<|image|>", "<|video|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<start_of_image>", "<end_of_image>"),
    *("<fake_token_around_image>", "<global-img>", "<img>", "</img>", *ROWS),
    *("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
    *("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
)
FIELDS = (
    *("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
    *("audio_token_id", "audio_start_token_id", "audio_end_token_id"),
    *("boi_token_id", "eoi_token_id"),
)
# Words around pictures that a config.json numbers; the line feed is a byte of the small tokeniser.
WORDS = {
    "image_start_id": "<image>",
    "image_end_id": "</image>",
    "slice_start_id": "<slice>",
    "slice_end_id": "</slice>",
}
DEPTHS = ("depth", "num_hidden_layers")
WIDTHS = ("out_hidden_size",)  # of the encoder's output: the decoder's width


def decoder_layers(config: Any) -> int:
    """How many decoder layers the encoder asks for at least."""
    vision = getattr(config, "vision_config", None)
    return DEEPSTACK + 1 if getattr(vision, "deepstack_visual_indexes", None) else 0


def shrink_encoders(config: Any) -> None:
    """Two layers of each encoder (three with deepstack), its output as wide as the decoder, tokens behind the bytes."""
    if (vision := getattr(config, "vision_config", None)) is not None:
        _shrink_vision(config, vision)
    if (audio := getattr(config, "audio_config", None)) is not None:
        _cut_depth(audio, LAYERS)
        if getattr(audio, "output_dim", None):  # of an encoder that projects by itself
            audio.output_dim = int(config.get_text_config().hidden_size)
    for number, name in enumerate(FIELDS):
        if getattr(config, name, None) is not None:
            setattr(config, name, FIRST + number)
    for name, word in WORDS.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, FIRST + TOKENS.index(word))
    if getattr(config, "newline_id", None) is not None:
        config.newline_id = _byte("\n")


def _byte(character: str) -> int:
    """The small tokeniser's id of a byte."""
    from pipeline.verify.random_model import byte_tokenizer

    return int(byte_tokenizer().encode(character).ids[0])


def _cut_depth(encoder: Any, depth: int) -> None:
    for name in DEPTHS:
        if isinstance(getattr(encoder, name, None), int):
            setattr(encoder, name, min(int(getattr(encoder, name)), depth))


def _shrink_vision(config: Any, vision: Any) -> None:
    levels = getattr(vision, "deepstack_visual_indexes", None)
    _cut_depth(vision, max(LAYERS, len(levels or ())))
    if levels:
        vision.deepstack_visual_indexes = list(range(len(levels)))
    if getattr(vision, "fullatt_block_indexes", None):
        vision.fullatt_block_indexes = [1]
    hidden = int(config.get_text_config().hidden_size)
    for name in WIDTHS:
        if getattr(vision, name, None):
            setattr(vision, name, hidden)
    if getattr(config, "mm_tokens_per_image", None):
        _shrink_square(config, vision)
    if hasattr(config, "insert_layer_id"):
        config.insert_layer_id = vision.insert_layer_id = 0  # one layer before the merged windows, one behind them
    if config.model_type == "qwen2_vl":  # its encoder calls its output's width so
        vision.hidden_size = hidden


def _shrink_square(config: Any, vision: Any) -> None:
    """Smaller pictures (Gemma 3's have 4,096 patches each), as many patches to a token as before."""
    tokens = int(config.mm_tokens_per_image**0.5)
    few = min(tokens, TOKENS_A_SIDE)
    config.mm_tokens_per_image = few * few
    vision.image_size = int(vision.image_size) * few // tokens


def copy_processors(checkpoint: Path, folder: Path, config: Any) -> None:
    """The processor's files, with the size of the small model's pictures where that has been cut."""
    for name in PROCESSORS:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
            if getattr(config, "mm_tokens_per_image", None):
                side = int(config.vision_config.image_size)
                _write_settings(folder / name, "size", {"size": {"height": side, "width": side}})
            if hasattr(config, "insert_layer_id"):
                _write_settings(folder / name, "image_mean", {"scale_resolution": SLICE})


def _write_settings(file: Path, known_by: str, changes: dict[str, Any]) -> None:
    """`changes` in the file's settings of pictures, which are those that have a key `known_by`."""
    content = json.loads(file.read_text("utf-8"))
    for settings in (content, content.get("image_processor", {})):
        if known_by in settings:
            settings |= changes
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def plain_tokens(config: Any, ids: list[int]) -> list[int]:
    """`ids` without those of a config's pictures and sounds: the engine dies on an image token that has none."""
    if not any(hasattr(config, name) for name in ("vision_config", "audio_config")):
        return ids
    return [token - FIRST + 3 if FIRST <= token < FIRST + len(TOKENS) else token for token in ids]


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json with the bytes and TOKENS."""
    from pipeline.verify.random_model import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(list(TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
