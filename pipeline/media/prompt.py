"""`<img>path</img>` and `<img><hw>280, 420</hw>path</img>` in a prompt: found, prepared, and tokenised.

The engine drops a picture that it cannot open without a word, and dies on an image token without a picture; so nothing
but files written here reaches it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.media.expansion import TEXTS
from pipeline.media.picture import open_picture
from pipeline.media.prepare import Prepared, prepare

_PICTURE = re.compile(r"<img>(.*?)</img>", re.DOTALL)
_MEDIA = re.compile(r"<(img|audio)>.*?</\1>", re.DOTALL)
_SIZE = re.compile(r"<hw>(.*?)</hw>", re.DOTALL)
FACTS = "visual.json"


class Tokenizer(Protocol):
    """What an Engine offers."""

    def tokenize(self, text: str) -> list[int]: ...


def has_pictures(text: str) -> bool:
    """Whether the text names a picture."""
    return _PICTURE.search(text) is not None


def without_media(text: str) -> str:
    """The text without its pictures and sounds."""
    return _MEDIA.sub("", text)


def tokenize(
    engine: Tokenizer,
    text: str,
    product: Path,
    scratch: Path,
    sources: list[str] | None = None,
    *,
    allow_net: bool = False,
) -> tuple[list[int], int]:
    """(ids of the text with its pictures' places, number of pictures). The engine holds their embeddings from then on.

    product: the product's folder, scratch: one for the prepared pictures, which may go afterwards. sources: what the
    numbers in the text's tags stand for, for text of strangers, who may name no files here. Raises UserError for
    pictures in a product without a vision encoder, for those that cannot be read, and for image tokens without one.
    """
    names = _PICTURE.findall(text)
    if sources is not None:
        if names != [str(number) for number in range(len(sources))]:
            raise UserError("a text may not hold <img> tags here", "send the picture as a part of type image_url")
        names = sources
    facts = _facts(product)
    if facts is None:
        if names:
            raise UserError("the prompt has a picture, and this product has no vision encoder", "export a vision model")
        return engine.tokenize(text), 0
    _refuse_stray(engine, without_media(text), facts)
    if len(names) > int(facts.get("most", len(names))):
        raise UserError(f"the prompt has {len(names)} pictures; this model takes {facts['most']}", "leave some out")
    prepared = [_prepared(name, facts, allow_net) for name in names]
    words = [_write(one, scratch, number) for number, one in enumerate(prepared)]
    if facts["kind"] not in TEXTS:
        pieces = iter(["".join((facts.get("before", ""), *group, facts.get("after", ""))) for group in words])
        return engine.tokenize(_PICTURE.sub(lambda _: next(pieces), text)), len(names)
    for word in (word for group in words for word in group):
        engine.tokenize(word)  # for the embedding that the engine then holds; the ids come from the model's own prompt
    expanded = iter([TEXTS[facts["kind"]](number, one, facts) for number, one in enumerate(prepared)])
    return engine.tokenize(_PICTURE.sub(lambda _: next(expanded), text)), len(names)


def _facts(product: Path) -> dict[str, Any] | None:
    file = product / FACTS
    if not file.is_file():
        return None
    keys = json.loads((product / "llm_config.json").read_text("utf-8"))
    return {**json.loads(file.read_text("utf-8")), "image_pad": keys["image_pad"]}


def _prepared(inside: str, facts: dict[str, Any], allow_net: bool) -> Prepared:
    found = _SIZE.search(inside)
    source = _SIZE.sub("", inside).strip()
    if not source:
        raise UserError("<img></img> names no picture", "write <img>path</img>")
    return prepare(open_picture(source, allow_net=allow_net), facts, None if found is None else _size(found[1]))


def _size(text: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if numbers is None:
        raise UserError(f"<hw>{text}</hw> is no height and width", "write <hw>280, 420</hw>")
    return int(numbers[1]), int(numbers[2])


def _write(one: Prepared, scratch: Path, number: int) -> list[str]:
    """The engine's own words for each picture of `one`, whose pixels it then takes as they are."""
    words = []
    for index, picture in enumerate(one.pictures):
        path = scratch / f"{number}-{index}.png"
        picture.save(path, compress_level=1)
        words.append(f"<img><hw>{picture.height},{picture.width}</hw>{path}</img>")
    return words


def _refuse_stray(engine: Tokenizer, text: str, facts: dict[str, Any]) -> None:
    """An image token that a person typed has no picture, and the engine would read beyond its list of them."""
    if facts["image_pad"] in engine.tokenize(text):
        raise UserError("the prompt holds the model's image token itself", "name pictures as <img>path</img>")
