"""A product's config.json and llm_config.json, checked before native code sees them and edited so that they stay valid.

That the weight file is as long as the graph needs is the runner's business; here it is names, types, bounds and files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, nearest
from pipeline.runtime.check import NEWEST, check, check_key, modernised, refuse
from pipeline.runtime.key import Key
from pipeline.runtime.keys import KEYS
from pipeline.runtime.retired import RETIRED

# Files that must be there, whatever the configuration says of the others.
_REQUIRED = ("llm_model", "llm_weight", "tokenizer_file")
_LARGEST = 16 << 20  # bytes of a configuration: templates are tens of kilobytes


def read_product(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json, llm_config.json) of a product. Raises UserError for a missing, huge or malformed file."""
    config = _read(folder / "config.json")
    name = config.get("llm_config", KEYS["llm_config"].default)
    problems = check({"llm_config": name})
    if problems:
        raise UserError(f"{folder / 'config.json'}: {problems[0]}")
    return config, _read(folder / str(name))


def check_product(folder: Path, engine: str = NEWEST) -> list[str]:
    """One line for each thing wrong with a product's configuration; [] if the engine may see it.

    Names that exporters write and no engine reads are no mistake: see `ignored`. Raises UserError if it cannot be read.
    """
    config, model = read_product(folder)
    problems = [f"config.json: {line}" for line in check(_read_by_engines(config), engine)]
    problems += [f"llm_config.json: {line}" for line in check(_read_by_engines(model), engine)]
    merged = {**config, **model}
    return problems + outside_folder(merged) + ([] if problems else _missing(folder, merged))


def ignored(folder: Path) -> list[str]:
    """A line for each older or descriptive name in a product's files, with what became of it. Raises UserError."""
    config, model = read_product(folder)
    return [line for name in (*config, *model) if name in RETIRED for line in check_key(name, None)]


def _read_by_engines(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in RETIRED}


def refuse_product(folder: Path, engine: str = NEWEST) -> None:
    """Raises UserError with the first problem of a product's configuration."""
    problems = check_product(folder, engine)
    if problems:
        raise UserError(f"{folder}: {problems[0]}", "mend the file, or export the product again")


def outside_folder(merged: Mapping[str, Any]) -> list[str]:
    """base_dir moves every file; a product is one folder, so it may only be that folder. [] if it is."""
    base = merged.get("base_dir", "")
    return [] if base in ("", "./") else [f"base_dir: {base!r} leaves the product's folder"]


def _missing(folder: Path, merged: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in (*_REQUIRED, *_embedding(merged), *_encoders(merged)):
        file = folder / str(merged.get(name, KEYS[name].default))
        if not file.is_file():
            lines.append(f"{name}: {merged.get(name, KEYS[name].default)} is missing")
    if "hidden_size" not in merged:
        lines.append("llm_config.json: hidden_size is missing")
    return lines


def _embedding(merged: Mapping[str, Any]) -> Sequence[str]:
    """The embedding's file is needed unless its rows lie in the weights (weight_offset is not 0)."""
    tied = merged.get("tie_embeddings")
    offset = tied.get("weight_offset") if isinstance(tied, dict) else tied[0] if tied else 0
    return () if offset else ("embedding_file",)


def _encoders(merged: Mapping[str, Any]) -> Sequence[str]:
    wanted = {"is_visual": "visual_model", "is_audio": "audio_model"}
    return [name for flag, name in wanted.items() if merged.get(flag)]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes: that is no configuration")
        values = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path} is missing", "give a folder that `doit export` wrote") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def parse_assignment(text: str, engine: str = NEWEST) -> tuple[str, Any]:
    """`key=value` typed by a person → (key, value of the key's type); an old key becomes its successor.

    Text stays as typed; everything else is JSON. Raises UserError: unknown key, wrong type, out of bounds.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise UserError(f"'{text}' is not of the form key=value")
    if name not in KEYS and name not in RETIRED:
        raise UserError(f"the engine reads no key '{name}'.{nearest(name, KEYS)}", "see docs/runtime.md")
    parsed, _ = modernised({name: _parse(KEYS.get(name), name, value)})
    refuse(parsed, "config", engine)
    return next(iter(parsed.items()))


def _parse(key: Key | None, name: str, value: str) -> Any:
    if key is not None and key.type is str:
        return value
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        raise UserError(f"{name}={value}: the value is not JSON", "a number, true, false, [list] or {object}") from None


def edit_product(folder: Path, values: Mapping[str, Any]) -> None:
    """Set checked keys in the file of the product where each belongs; null removes a key. Both stay valid or unchanged.

    Raises UserError if the result would be wrong; each file is replaced at once.
    """
    config, model = read_product(folder)
    refuse({name: value for name, value in values.items() if value is not None}, "config")
    for name, value in values.items():
        if name not in KEYS and name not in config and name not in model:
            raise UserError(f"the product has no key '{name}'.{nearest(name, KEYS)}", "see docs/runtime.md")
        home = model if name in model or (name in KEYS and KEYS[name].file == "llm_config") else config
        home.pop(name, None)
        if value is not None:
            home[name] = value
    merged = {**config, **model}
    problems = [*check(_read_by_engines(merged)), *outside_folder(merged), *_missing(folder, merged)]
    if problems:
        raise UserError(f"{folder} would not be valid: {problems[0]}")
    _replace(folder / "config.json", config)
    _replace(folder / str(config.get("llm_config", KEYS["llm_config"].default)), model)


def _replace(path: Path, values: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)
