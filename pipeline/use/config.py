"""`python -m pipeline config PRODUCT [key=value …]`: shows the run-time keys of a product, or changes them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner.product import open_product
from pipeline.runtime.keys import KEYS
from pipeline.runtime.product import check_product, edit_product, parse_assignment
from pipeline.use.settings import DESCRIPTIVE

# Keys of llm_config.json that exporters write for people; that the engine does not read them is no mistake.
_DESCRIPTIVE = tuple(f"llm_config.json: {name}: engine" for name in DESCRIPTIVE)


def main(arguments: Sequence[str]) -> int:
    """Without assignments: every key that the product sets, with its meaning; exit code 1 if one of them is wrong."""
    options = _parse(arguments)
    folder = open_product(options.product).folder
    changes = [_assignment(text) for text in options.assignments]
    if changes:
        edit_product(folder, dict(changes))
    problems = [line for line in check_product(folder) if not line.startswith(_DESCRIPTIVE)]
    values = open_product(options.product).config
    if options.json:
        print(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        for name, value in sorted(values.items()):
            print(_line(name, value))
    for problem in problems:
        print(f"wrong: {problem}")
    return 1 if problems else 0


def _assignment(text: str) -> tuple[str, Any]:
    """key=value; `key=` alone takes the key out of the product (the engine's default holds again)."""
    name, _, value = text.partition("=")
    if "=" in text and not value:
        if name not in KEYS:
            raise UserError(f"the engine reads no key '{name}'", "see docs/runtime.md")
        return name, None
    return parse_assignment(text)


def _line(name: str, value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    meaning = f"  # {KEYS[name].meaning}" if name in KEYS else "  # the engine does not read this"
    return f"{name} = {shown}{meaning}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline config", description=__doc__)
    parser.add_argument("product", type=Path)
    parser.add_argument("assignments", nargs="*", metavar="key=value", help="`key=` takes a key out")
    parser.add_argument("--json", action="store_true", help="the keys as JSON")
    return parser.parse_args(list(arguments))
