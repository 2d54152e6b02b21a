"""What a prompt brings beside its text: `<img>FILE</img>` and `<audio>FILE</audio>` in chat and run, parts of a message
in the server; both in one prompt where the product sees and hears."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.media import prompt as pictures_of
from pipeline.mnn.runner import Engine
from pipeline.use.sound import LONGEST, RATE, Wave, read_sound

_TAG = re.compile(r"<audio>(.*?)</audio>", re.DOTALL)
_VIDEO = re.compile(r"<video>.*?</video>", re.DOTALL)
FACTS = "audio.json"


@dataclass(frozen=True)
class Encoded:
    """A prompt's ids. fresh: they stand for more than their text, so no cached beginning may be used again."""

    ids: list[int]
    fresh: bool = False


@dataclass(frozen=True)
class _Ears:
    """Tokenises texts for `pictures_of`, with the sounds that numbered tags in them stand for."""

    engine: Engine
    waves: Sequence[Wave]

    def tokenize(self, text: str) -> list[int]:
        if self.waves and has_sounds(text):
            return self.engine.tokenize_sounds(text, self.waves)
        return self.engine.tokenize(text)


def has_sounds(text: str) -> bool:
    """Whether the text names a sound."""
    return _TAG.search(text) is not None


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
    """The ids of a prompt after the chat template. What follows must be its prefill: the engine keeps the rows of
    sounds and pictures for it.

    sounds: those that `tag`s in the text stand for, in order (the server's); None: tags name files of this machine.
    pictures: data: URLs (or, with `allow_net`, http ones) that `picture_tag`s stand for; None as with sounds.
    Raises UserError for a file that cannot be heard or seen, and for a tag that stands for nothing.
    """
    _refuse_unfelt(engine, text, sounds)
    waves: list[Wave] = []
    if hears(engine):
        text, waves = _heard(engine, text, sounds)
    ears = _Ears(engine, waves)
    if not sees(engine) and not pictures:
        return Encoded(ears.tokenize(text), fresh=bool(waves))
    with tempfile.TemporaryDirectory(prefix="pictures-") as scratch:
        sources = None if pictures is None else list(pictures)
        folder = engine.product.folder
        ids, count = pictures_of.tokenize(ears, text, folder, Path(scratch), sources, allow_net=allow_net)
    return Encoded(ids, fresh=count > 0 or bool(waves))


def _refuse_unfelt(engine: Engine, text: str, sounds: Sequence[Wave] | None) -> None:
    """The engine drops, without a word, what it has no encoder for; without any encoder tags are text."""
    if not hears(engine) and (sounds or (sees(engine) and has_sounds(text))):
        raise UserError("this product has no audio encoder, so it hears no sound", "build an audio model")
    if hears(engine) and not sees(engine) and pictures_of.has_pictures(text):
        raise UserError("this product has no vision encoder, so it sees no picture", "build a vision model")
    if (hears(engine) or sees(engine)) and _VIDEO.search(text):
        raise UserError("videos are not taken", "give single pictures of it as <img>FILE</img>")


def _heard(engine: Engine, text: str, sounds: Sequence[Wave] | None) -> tuple[str, list[Wave]]:
    """(the text with the engine's own words for its sounds, the sounds)."""
    if engine.product.config.get("audio_pad") in engine.tokenize(pictures_of.without_media(text)):
        raise UserError("the prompt holds the model's sound token itself", "name sounds as <audio>path</audio>")
    names = _TAG.findall(text)
    if sounds is not None and names != [str(number) for number in range(len(sounds))]:
        raise UserError("a text may not hold <audio> tags here", "send the sound as a part of type input_audio")
    facts = _facts(engine)
    given = [(name.strip(), None) for name in names] if sounds is None else [("the sound", wave) for wave in sounds]
    waves = [_fitting(name, wave, facts) for name, wave in given]
    before, after = (re.escape(str(facts.get(side, ""))) for side in ("before", "after"))
    numbers = iter(range(len(waves)))

    def numbered(_: re.Match[str]) -> str:
        return f"{facts.get('before', '')}<audio>audio_{next(numbers)}</audio>{facts.get('after', '')}"

    # Tokens around a sound that a person typed, as the model's own template has them, are not doubled.
    return re.sub(f"(?:{before})?{_TAG.pattern}(?:{after})?", numbered, text, flags=re.DOTALL), waves


def _fitting(name: str, wave: Wave | None, facts: Mapping[str, Any]) -> Wave:
    """A sound in whole frames: transformers counts the last one even if the sound ends within it."""
    longest = float(facts.get("longest", LONGEST))
    wave = read_sound(Path(name).expanduser(), longest=longest) if wave is None else wave
    if len(wave) > longest * RATE:
        seconds = f"{len(wave) / RATE:.1f} s"
        raise UserError(f"{name} has {seconds}; the model hears {longest:g} s at a time", "cut it into pieces")
    return np.pad(wave, (0, -len(wave) % int(facts.get("hop_length", 160))))


def _facts(engine: Engine) -> dict[str, Any]:
    """What the product says of its sounds; {} if it says nothing."""
    file = engine.product.folder / FACTS
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def picture_tag(number: int) -> str:
    """What stands in the text for the server's picture of this number."""
    return f"<img>{number}</img>"


def tag(number: int) -> str:
    """What stands in the text for the server's sound of this number."""
    return f"<audio>{number}</audio>"
