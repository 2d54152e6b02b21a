"""The command line as doit leaves it: which verb, which overrides, which options (before or after the verb)."""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doit import doit_cmd, get_initial_workdir
from doit.exceptions import InvalidTask

from pipeline.errors import UserError

RECIPE_VERBS = ("export", "plan", "verify", "lock")
BUILDING = ("export", "verify", "lock")
VERBS = (*RECIPE_VERBS, "models", "quants", "gc", "usage")
COMMANDS = (
    "help",
    "run",
    "list",
    "info",
    "clean",
    "forget",
    "ignore",
    "dumpdb",
    "strace",
    "tabcompletion",
    "reset-dep",
)

# What `doit export` takes after its name; doit itself takes the first three before it.
PARAMS = (
    {"name": "jobs", "short": "n", "long": "process", "type": str, "default": "", "help": "stages at once (default 2)"},
    {
        "name": "always",
        "short": "a",
        "long": "always-execute",
        "type": bool,
        "default": False,
        "help": "build every stage again",
    },
    {
        "name": "keep_going",
        "short": "c",
        "long": "continue",
        "type": bool,
        "default": False,
        "help": "go on after a failure",
    },
    {
        "name": "locked",
        "short": "",
        "long": "locked",
        "type": bool,
        "default": False,
        "help": "fail on any difference from pipeline.lock",
    },
    {"name": "json", "short": "", "long": "json", "type": bool, "default": False, "help": "for machines"},
)
_SHORT = "n:ac"
_LONG = ["process=", "always-execute", "continue", "locked", "json"]


class BadRequest(InvalidTask):  # type: ignore[misc]
    """A UserError in the shape that doit prints as one line, with exit code 3."""


@dataclass(frozen=True)
class Request:
    """verb: "" when doit was asked for something else (`doit list`). command: doit's own, "run" for a verb.

    engines, folders: `doit verify engines=3.4.0,3.6.1 [FOLDER …]`; without a folder the recipe names the product.
    """

    command: str
    verb: str
    overrides: tuple[str, ...]
    jobs: int = 2
    always: bool = False
    keep_going: bool = False
    locked: bool = False
    json: bool = False
    engines: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def builds(self) -> bool:
        """Whether stages will run where they have no record."""
        return self.command == "run" and self.verb in BUILDING

    @property
    def has_recipe(self) -> bool:
        """Whether the recipes of the overrides are wanted: by a verb, or by `doit clean|forget export model=…`."""
        return self.verb in RECIPE_VERBS


def current() -> Request:
    """The request of this process. Raises BadRequest."""
    variables: Mapping[str, str] = doit_cmd._CMDLINE_VARS or {}
    try:
        return parse(sys.argv[1:], variables)
    except UserError as error:
        raise BadRequest(str(error)) from None


def parse(arguments: Sequence[str], variables: Mapping[str, str]) -> Request:
    """`arguments` as typed; `variables` are the key=value ones, as doit took them out. Raises UserError."""
    words = [text for text in arguments if not text.startswith(("-", "~")) and "=" not in text]
    command = words[0] if words and words[0] in COMMANDS else "run"
    verb = next((word for word in words if word in VERBS), "")
    engines = _engines(variables.get("engines", "")) if verb == "verify" else ()
    overrides = tuple(f"{key}={value}" for key, value in variables.items() if not (engines and key == "engines"))
    overrides += tuple(text for text in arguments if text.startswith("~") and "=" not in text)
    if command == "run" and not verb and overrides and not [word for word in words if not word.isdigit()]:
        verb = "export"  # `doit model=…` means the main job
    if command != "run" or verb not in RECIPE_VERBS:
        return Request(command, verb, overrides)
    folders = tuple(word for word in words if word not in (verb, "run") and _is_folder(word)) if engines else ()
    recipe = [text for text in overrides if not text.startswith("cache.")]
    if folders and recipe:
        raise UserError(f"both {folders[0]} and {recipe[0]} say which product", "give a folder or a recipe")
    rest = [text for text in arguments if text not in folders]
    return Request(command, verb, overrides, engines=engines, folders=folders, **_options(rest, verb))


def _engines(text: str) -> tuple[str, ...]:
    """The versions of `engines=…`, each once, in the order given."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _is_folder(word: str) -> bool:
    return (start_folder() / word).is_dir()


def _options(arguments: Sequence[str], verb: str) -> dict[str, Any]:
    mine = [text for text in arguments if text.startswith("-") or "=" not in text]
    try:
        pairs, rest = getopt.gnu_getopt([text for text in mine if not text.startswith("~")], _SHORT, _LONG)
    except getopt.GetoptError as error:
        raise UserError(f"doit {verb}: {error}", f"type doit help {verb}") from None
    stray = [word for word in rest if word not in (verb, "run")]
    if stray and "/" in stray[0]:
        raise UserError(f"there is no folder {stray[0]}", "give a product's folder, or key=value")
    if stray:
        raise UserError(f"'{stray[0]}' is not an override", f"write key=value, for example model={stray[0]}")
    options: dict[str, Any] = {}
    for name, value in pairs:
        if name in ("-n", "--process"):
            options["jobs"] = _count(value)
        else:
            options[
                {"-a": "always", "--always-execute": "always", "-c": "keep_going", "--continue": "keep_going"}.get(
                    name, name.lstrip("-")
                )
            ] = True
    return options


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"-n {text}: a number of stages to run at once was expected", "write -n 2")
    return int(text)


def start_folder() -> Path:
    """Where the person typed; doit itself works in dodo.py's folder."""
    return Path(get_initial_workdir() or os.getcwd())
