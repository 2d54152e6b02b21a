"""docs/runtime.md, generated from the keys: `python -m pipeline.runtime.document > docs/runtime.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipeline.runtime.key import OLDEST, Key, Retired
from pipeline.runtime.keys import SECTIONS
from pipeline.runtime.retired import RETIRED
from pipeline.runtime.unseen import UNSEEN

_HEAD = """# Run-time configuration

Generated from `pipeline/runtime/keys.py` (`python -m pipeline.runtime.document > docs/runtime.md`); do not edit.

The engine reads `config.json`, then `llm_config.json` over it, and ignores what it does not know; this project does
not: an unknown key, a wrong type or an absurd value is an error before the engine starts. Set a key when exporting
(`doit export target.runtime.reuse_kv=true`) or in a product. "Since" is the first engine version that reads the key;
the oldest wheel with a language model is 3.4.0. Defaults are engine 3.6.1's, for a key that is absent; what a product
says instead is in `conf/target/`.
"""

_OLDER = """In a recipe or an edit they are mapped where something took their place and refused where nothing did. In
the files of a product that another exporter made they are no mistake: `python -m pipeline config` says what became of
them, and the engine passes over them."""

_SEEN = """Every other key has a test that writes it into a product's files and sees the real engine behave otherwise
(`tests/runtime/test_effects.py` says which)."""


def document() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD, *(_section(title, keys) for title, keys in SECTIONS.items()), _unseen(), _retired()]
    return "\n".join(parts)


def _section(title: str, keys: tuple[Key, ...]) -> str:
    head = "| key | type | default | values | meaning | since |\n| --- | --- | --- | --- | --- | --- |\n"
    rows = "".join(_row(key) + "\n" for key in keys)
    return f"## {title}\n\n{head}{rows}"


def _row(key: Key) -> str:
    since = "" if key.since == OLDEST else key.since
    file = " *(llm_config)*" if key.file == "llm_config" else ""
    cells = (f"`{key.name}`{file}", _type(key), f"`{json.dumps(key.default)}`", _values(key), _cell(key), since)
    return f"| {' | '.join(cells)} |"


def _type(key: Key) -> str:
    kind = "file" if key.path else key.type.__name__
    return f"{kind} of {key.item.__name__}" if key.item is not None else kind


def _cell(key: Key) -> str:
    return (key.meaning + (f" ({key.unit})" if key.unit else "")).replace("|", "\\|")


def _values(key: Key) -> str:
    if key.choices:
        return ", ".join(f"`{choice}`" if choice != "" else "(empty)" for choice in key.choices)
    bounds = [_number(bound) for bound in (key.minimum, key.maximum)]
    return " … ".join(bounds) if any(bounds) else ""


def _number(bound: float | None) -> str:
    if bound is None:
        return ""
    return str(int(bound)) if float(bound).is_integer() else str(bound)


def _unseen() -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in UNSEEN.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    rows = "".join(f"| {', '.join(names)} | {reason} |\n" for reason, names in reasons.items())
    return f"## Keys whose effect is not seen here\n\n{_SEEN}\n\n| keys | why |\n| --- | --- |\n{rows}"


def _retired() -> str:
    rows = "".join(f"{row}\n" for row in map(_retired_row, RETIRED.values()))
    head = "| name | becomes | why |\n| --- | --- | --- |\n"
    return f"## Older names\n\n{_OLDER}\n\n{head}{rows}"


def _retired_row(retired: Retired) -> str:
    return f"| `{retired.name}` | {', '.join(_mapping(retired)) or 'refused'} | {retired.reason} |"


def _mapping(retired: Retired) -> Iterator[str]:
    if retired.successor:
        values = ", ".join(f"{old} → {new}" for old, new in retired.values)
        yield f"`{retired.successor}` ({values})" if values else f"`{retired.successor}`"


if __name__ == "__main__":
    print(document(), end="")
