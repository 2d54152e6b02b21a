"""`python -m pipeline config PRODUCT [key=value …]`: shows the run-time keys of a product, or changes them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.runtime.keys import KEYS
from pipeline.runtime.product import check_product, edit_product, ignored, parse_assignment, read_product


def main(arguments: Sequence[str]) -> int:
    """Without assignments: every key that the product sets, with its meaning; exit code 1 if one of them is wrong."""
    options = _parse(arguments)
    folder = options.product if options.product.is_dir() else options.product.parent
    if not (folder / "config.json").is_file():
        raise UserError(f"no product at {options.product}: there is no config.json", "give the folder of an export")
    changes = [_assignment(text) for text in options.assignments]
    if changes:
        edit_product(folder, dict(changes))
    problems = check_product(folder)
    config, model = read_product(folder)
    values = {**config, **model}
    if options.json:
        print(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        for name, value in sorted(values.items()):
            print(_line(name, value))
    for line in ignored(folder):
        print(f"note: {line}", file=sys.stderr)
    for problem in problems:
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _assignment(text: str) -> tuple[str, Any]:
    """key=value; `key=` alone takes the key out of the product (the engine's default holds again)."""
    name, _, value = text.partition("=")
    if "=" in text and not value:
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
