"""Requests and responses of the OpenAI protocol, as far as the engine has it. What it has not is refused by name."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.use.media import picture_tag, tag
from pipeline.use.prompts import Message, check_messages
from pipeline.use.sampler import GREEDY, Sampling
from pipeline.use.sound import MOST, Wave, read_sound

_COMMON = {
    "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "stop", "max_tokens", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "user", "n",
}  # fmt: skip
FIELDS = {
    "chat": frozenset(_COMMON | {"messages", "max_completion_tokens"}),
    "text": frozenset(_COMMON | {"prompt"}),
}
_MOST_STOPS = 4
# field → (lowest, highest)
_BOUNDS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (1.0, 10.0),
}


class BadRequest(UserError):
    """A request that is refused with status 400; the message names the field."""


@dataclass(frozen=True)
class Ask:
    """A checked request. messages for a chat, prompt for a plain completion. sounds: what audio tags stand for.

    pictures: the data: URLs that picture tags stand for.
    """

    messages: tuple[Message, ...]
    prompt: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    stops: tuple[str, ...]
    seed: int | None
    changes: Mapping[str, Any]
    greedy: bool
    sounds: tuple[Wave, ...] = ()
    pictures: tuple[str, ...] = ()

    def sampling(self, product: Sampling) -> Sampling:
        """The product's sampler with the request's changes. Temperature 0 is greedy, as everywhere."""
        if self.greedy:
            penalties = {key: value for key, value in self.changes.items() if key.endswith("penalty")}
            return _stepped(GREEDY.changed(**penalties), self.changes)
        sampled = product.changed(greedy=False) if "temperature" in self.changes else product
        return _stepped(sampled.changed(**self.changes), self.changes)


# What each field needs among the sampler's steps to have an effect.
_STEPS = {
    "top_k": "topK",
    "top_p": "topP",
    "min_p": "min_p",
    "presence_penalty": "penalty",
    "frequency_penalty": "penalty",
    "repetition_penalty": "penalty",
}


def _stepped(sampling: Sampling, changes: Mapping[str, Any]) -> Sampling:
    wanted = dict.fromkeys(step for field, step in _STEPS.items() if field in changes and step not in sampling.steps)
    penalty = [step for step in wanted if step == "penalty"]
    others = [step for step in wanted if step != "penalty"]
    return sampling.changed(steps=(*penalty, *others, *sampling.steps))


def parse(body: Any, kind: str, model: str) -> Ask:
    """kind: "chat" or "text"; model: the name that this server answers to. Raises BadRequest that names the field."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    unknown = sorted(set(body) - FIELDS[kind])
    if unknown:
        raise BadRequest(f"unsupported field: {', '.join(unknown)}", f"supported: {', '.join(sorted(FIELDS[kind]))}")
    given = {key: value for key, value in body.items() if value is not None}
    if given.get("model", model) != model:
        raise BadRequest(f"model: this server has '{model}', not '{given['model']}'")
    if _integer(given, "n", 1, 1) != 1:
        raise BadRequest("n: only 1 is supported")
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage"}:
        raise BadRequest("stream_options: only include_usage is supported")
    changes = _changes(given)
    sounds: list[Wave] = []
    pictures: list[str] = []
    return Ask(
        messages=_messages(given, sounds, pictures) if kind == "chat" else (),
        prompt=_prompt(given) if kind == "text" else "",
        stream=_boolean(given, "stream"),
        include_usage=bool(options.get("include_usage", False)),
        max_tokens=_integer(given, "max_completion_tokens", 1, 1 << 24) or _integer(given, "max_tokens", 1, 1 << 24),
        stops=_stops(given.get("stop", ())),
        seed=_integer(given, "seed", -(1 << 63), (1 << 63) - 1),
        changes={key: value for key, value in changes.items() if (key, value) != ("temperature", 0.0)},
        greedy=changes.get("temperature") == 0.0,
        sounds=tuple(sounds),
        pictures=tuple(pictures),
    )


def _changes(given: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {name: _number(given, name) for name in _BOUNDS if name in given}
    if "top_k" in given:
        changes["top_k"] = _integer(given, "top_k", 1, 1 << 24)
    if "logit_bias" in given:
        changes["logit_bias"] = _bias(given["logit_bias"])
    return changes


def _messages(given: Mapping[str, Any], sounds: list[Wave], pictures: list[str]) -> tuple[Message, ...]:
    """Content may be text, or a list of parts; sounds are appended to `sounds`, pictures' URLs to `pictures`."""
    value = given.get("messages")
    if isinstance(value, list):
        value = [_flat(message, sounds, pictures) if isinstance(message, dict) else message for message in value]
    try:
        return check_messages(value, "messages")
    except UserError as error:
        raise BadRequest(str(error)) from None


def _flat(message: dict[str, Any], sounds: list[Wave], pictures: list[str]) -> dict[str, Any]:
    extra = sorted(set(message) - {"role", "content", "name"})
    if extra:
        raise BadRequest(f"messages: unsupported field: {', '.join(extra)}")
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    return {**message, "content": "".join(_part(part, sounds, pictures) for part in parts)}


def _picture(part: dict[str, Any], pictures: list[str]) -> str:
    found = part.get("image_url")
    url = found.get("url") if isinstance(found, dict) else found
    if not isinstance(url, str) or not url.startswith("data:"):
        raise BadRequest("image_url: a data: URL with the picture in base64 is needed; this server fetches nothing")
    pictures.append(url)
    return picture_tag(len(pictures) - 1)


def _part(part: Any, sounds: list[Wave], pictures: list[str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return str(part.get("text", ""))
    if kind == "image_url":
        return _picture(part, pictures)
    if kind != "input_audio":
        raise BadRequest("messages: only parts of type text, image_url and input_audio are supported")
    sound = part.get("input_audio")
    if not isinstance(sound, dict) or sound.get("format") != "wav" or not isinstance(sound.get("data"), str):
        raise BadRequest("input_audio: `data` in base64 and `format` wav are needed")
    try:
        content = base64.b64decode(sound["data"], validate=True)
        sounds.append(read_sound(content, "input_audio", longest=MOST))
    except ValueError:
        raise BadRequest("input_audio: data is not base64") from None
    except UserError as error:
        raise BadRequest(str(error)) from None
    return tag(len(sounds) - 1)


def _prompt(given: Mapping[str, Any]) -> str:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise BadRequest("prompt: one text that is not empty is needed")
    return prompt


def _stops(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else None
    if stops is None or len(stops) > _MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRequest(f"stop: a text, or at most {_MOST_STOPS} of them")
    return stops


def _bias(value: Any) -> tuple[tuple[int, float], ...]:
    entries = value.items() if isinstance(value, dict) else [("", value)]
    for token, bias in entries:
        if not token.isdecimal() or isinstance(bias, bool) or not isinstance(bias, int | float) or abs(bias) > 100:
            raise BadRequest("logit_bias: an object of token ids and numbers from -100 to 100")
    return tuple((int(token), float(bias)) for token, bias in entries)


def _number(given: Mapping[str, Any], name: str) -> float:
    value, (low, high) = given[name], _BOUNDS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequest(f"{name}: a number from {low:g} to {high:g}")
    return float(value)


def _integer(given: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = given.get(name)
    if value is None:
        return 1 if name == "n" else None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"{name}: a whole number from {low} to {high}")
    return value


def _boolean(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise BadRequest(f"{name}: true or false")
    return value
