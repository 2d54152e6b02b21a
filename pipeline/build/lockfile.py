"""pipeline.lock: what each product was made of, in a form that a code review can read, and holding a build to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from pipeline.build.code import code_digest
from pipeline.build.config import flatten
from pipeline.build.engine import Engine, SourceFiles
from pipeline.build.nodes import Product
from pipeline.build.product import make_manifest, shipped
from pipeline.build.tools import versions
from pipeline.errors import UserError

LOCK_FILE = "pipeline.lock"
LOCK_FORMAT = 1
RELOCK = "write the lock anew (doit lock …), or restore what changed"
# Where a file lies differs between machines; what is in it is locked by digests.
PATHS = ("model.path", "model.gptq_path", "adapter.path", "target.mnnconvert", "quant.calibration.text")


def entry(engine: Engine, product: Product) -> dict[str, Any]:
    """The lock of one built product: config, sources, tools, code, stage keys and output digests."""
    manifest = make_manifest(engine, product, {name: blob for name, (_, _, blob) in shipped(engine, product).items()})
    stages = {
        name: {**manifest["stages"][name], "code": code_digest(engine.code.closure(node.stage.module, node.stage.code))}
        for name, node in product.nodes.items()
    }
    return {
        "config": portable(product.recipe),
        "sources": manifest["sources"],
        "tools": manifest["tools"],
        "stages": stages,
        "files": manifest["files"],
    }


def portable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as it may be compared on another machine: without the store, paths by their last name."""
    plain: dict[str, Any] = json.loads(json.dumps({key: value for key, value in recipe.items() if key != "cache"}))
    for path in PATHS:
        *parents, leaf = path.split(".")
        holder: Any = plain
        for name in parents:
            holder = holder.get(name, {})
        if holder.get(leaf):
            holder[leaf] = PurePath(str(holder[leaf])).name
    return plain


def read(path: Path) -> dict[str, Any]:
    """Product name → entry; {} if there is no file. Raises UserError for a damaged or foreign one."""
    if not path.is_file():
        return {}
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
        if lock["format"] != LOCK_FORMAT:
            raise UserError(f"{path.name} has format {lock['format']}, this version writes {LOCK_FORMAT}", RELOCK)
        return dict(lock["products"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path.name} is not a lock file (a merge conflict?)", "repair it or write it anew") from None


def write(path: Path, entries: Mapping[str, Any]) -> None:
    """Replace the entries of these products, keep the others'."""
    products = {**read(path), **entries}
    scratch = path.with_name(f".{path.name}.new")
    text = json.dumps({"format": LOCK_FORMAT, "products": products}, indent=2, sort_keys=True, ensure_ascii=False)
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(path)


def refuse_difference(engine: Engine, product: Product, locked: Mapping[str, Any]) -> None:
    """Before any work: config, tools and code. Raises UserError that names the first difference."""
    for what, path, was, now in _differences(engine, product, locked):
        raise UserError(
            f"{product.name}: pipeline.lock says {what}{path} {_short(was)}, here it is {_short(now)}", RELOCK
        )


def refuse_other_source(product: Product, name: str, found: SourceFiles, locked: Mapping[str, Any]) -> None:
    """As soon as a source is found. Raises UserError that names the file."""
    expected = locked.get("sources", {}).get(name, {"revision": "", "files": {}})
    now = {file: blob.sha256 for file, blob in found.files.items()}
    was = {file: blob["sha256"] for file, blob in expected["files"].items()}
    for file in sorted({*was, *now}):
        if was.get(file) != now.get(file):
            before, after = _short(was.get(file)), _short(now.get(file))
            raise UserError(f"{product.name}: pipeline.lock says {name} {file} {before}, here it is {after}", RELOCK)


def _differences(engine: Engine, product: Product, locked: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    yield from _compare("", flatten(locked["config"]), flatten(portable(product.recipe)))
    now = {tool: one for node in product.nodes.values() for tool, one in versions(node.stage.tools).items()}
    yield from _compare("", locked["tools"], now)
    code = {
        name: code_digest(engine.code.closure(node.stage.module, node.stage.code))
        for name, node in product.nodes.items()
    }
    yield from _compare("code of ", {name: stage["code"] for name, stage in locked["stages"].items()}, code)


def _compare(what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield what, name, was.get(name), now.get(name)


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
