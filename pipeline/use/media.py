"""What a prompt brings beside its text: `<audio>FILE</audio>` in chat and run, parts of a message in the server."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.media import prompt as pictures_of
from pipeline.mnn.runner import Engine
from pipeline.use.sound import Wave, read_sound

_TAG = re.compile(r"<audio>(.*?)</audio>", re.DOTALL)


@dataclass(frozen=True)
class Encoded:
    """A prompt's ids. fresh: they stand for more than their text, so no cached beginning may be used again."""

    ids: list[int]
    fresh: bool = False


def hears(engine: Engine) -> bool:
    """Whether the product has an audio encoder."""
    return bool(engine.product.config.get("is_audio"))


def sees(engine: Engine) -> bool:
    """Whether the product has a vision encoder."""
    return bool(engine.product.config.get("is_visual"))


def encode(
    engine: Engine,
    text: str,
    sounds: Sequence[Wave] | None = None,
    *,
    pictures: Sequence[str] | None = None,
    allow_net: bool = False,
) -> Encoded:
    """The ids of a prompt after the chat template. What follows must be its prefill: the engine keeps the sounds' own
    rows for it.

    sounds: those that `tag`s in the text stand for, in order (the server's); None: tags name files of this machine.
    pictures: data: URLs (or, with `allow_net`, http ones) that `picture_tag`s stand for; None as with sounds.
    Raises UserError for a file that cannot be heard or seen, and for a tag that stands for nothing.
    """
    if sounds and not hears(engine):
        raise UserError("this product has no audio encoder, so it hears no sound", "build an audio model")
    if sees(engine) or pictures:
        with tempfile.TemporaryDirectory(prefix="pictures-") as scratch:
            sources = None if pictures is None else list(pictures)
            folder = engine.product.folder
            ids, count = pictures_of.tokenize(engine, text, folder, Path(scratch), sources, allow_net=allow_net)
        return Encoded(ids, fresh=count > 0)
    if not hears(engine):
        return Encoded(engine.tokenize(text))
    names = _TAG.findall(text)
    if sounds is not None and names != [str(number) for number in range(len(sounds))]:
        raise UserError("a text may not hold <audio> tags here", "send the sound as a part of type input_audio")
    if not names:
        return Encoded(engine.tokenize(text))
    waves = [read_sound(Path(name.strip()).expanduser()) for name in names] if sounds is None else list(sounds)
    numbers = iter(range(len(waves)))
    numbered = _TAG.sub(lambda _: f"<audio>audio_{next(numbers)}</audio>", text)
    return Encoded(engine.tokenize_sounds(numbered, waves), fresh=True)


def picture_tag(number: int) -> str:
    """What stands in the text for the server's picture of this number."""
    return f"<img>{number}</img>"


def tag(number: int) -> str:
    """What stands in the text for the server's sound of this number."""
    return f"<audio>{number}</audio>"
