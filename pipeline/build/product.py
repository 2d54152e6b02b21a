"""The product's folder: assembled beside its place, put there by one rename, up to date only if its bytes are."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.build.canonical import digest
from pipeline.build.copying import copy_verified
from pipeline.build.engine import Engine
from pipeline.build.key import select
from pipeline.build.nodes import Edge, Product
from pipeline.build.store import Blob, disk_full, identity
from pipeline.errors import StageFailed

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
REPORTS = (("quality", "report.json"), ("sentence_quality", "report.json"), ("pair_quality", "report.json"))
TOKENIZER_FACTS = ("tokenizer", "tokenizer.json")
LAYOUT = ("graph", "layout.json")
ADAPTERS = ("adapters", "facts/adapters.json")
EXACTNESS = ("exactness", "exactness.json")
WEIGHTS = (("weights", "weights.json"), ("visual_weights", "weights.json"), ("audio_weights", "weights.json"))
PRECISION = ("bits", "block", "symmetric", "scale_bits", "algorithm")
# What an engine must have been built with beside the target's own needs, by the product's files (MNN's build guide).
ENCODERS = {
    "visual.mnn": ("LLM_SUPPORT_VISION", "MNN_BUILD_OPENCV", "MNN_IMGCODECS"),
    "audio.mnn": ("LLM_SUPPORT_AUDIO", "MNN_BUILD_AUDIO"),
}
ADAPTER_REPORT = ("adapter_quality", "report.json")
# What a product's user must know of the layout: how far positions reach, and where the graph departs from the model.
LAYOUT_FACTS = ("task", "sentence", "pair", "model_type", "max_position_embeddings", "approximations", "notes")
# (stage, its files, folder within the product)
SHIPPED = (
    ("graph", ("llm.onnx",), "onnx"),
    ("link", ("*.mnn", "*.mnn.json"), ""),
    ("weights", ("*.mnn.weight",), ""),
    ("visual_link", ("*.mnn", "*.mnn.json"), ""),
    ("visual_weights", ("*.mnn.weight",), ""),
    ("visual_graph", ("visual.json",), ""),
    ("audio_link", ("*.mnn", "*.mnn.json"), ""),
    ("audio_weights", ("*.mnn.weight",), ""),
    ("audio_graph", ("audio.json",), ""),
    ("embedding", ("embeddings_*.bin",), ""),
    ("tokenizer", ("tokenizer.mtok", "tokenizer.txt"), ""),
    ("config", ("config.json", "llm_config.json"), ""),
    ("adapters", ("*.mnn", "*.json"), ""),
)
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h


@dataclass(frozen=True)
class Published:
    """A product on the disk. how: "hit" or "built"."""

    product: Product
    how: str
    bytes: int
    manifest: Mapping[str, Any]


def shipped(engine: Engine, product: Product) -> dict[str, tuple[Edge, str, Blob]]:
    """Name in the product → (where it comes from, name there, blob)."""
    files: dict[str, tuple[Edge, str, Blob]] = {}
    for stage, patterns, folder in SHIPPED:
        if stage not in product.nodes:
            continue
        node = product.nodes[stage]
        for name, blob in select(engine.outcomes[node.id].record.files, patterns).items():
            files[f"{folder}/{name}" if folder else name] = (Edge(node, (name,)), name, blob)
    return files


def up_to_date(engine: Engine, product: Product) -> Published | None:
    """The product on the disk if it is what these outcomes make, whole and unedited; else None (and why, said)."""
    try:
        manifest = json.loads((product.folder / MANIFEST).read_text(encoding="utf-8"))
        same = isinstance(manifest, dict) and manifest.get("key") == product_key(engine, product)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not same:
        return None
    if wrong := different_files(engine, product):
        names = ", ".join(wrong)
        engine.console.say(f"{product.name}: {names} changed since the product was published: publishing it again")
        return None
    return Published(product, "hit", _size(product.folder), manifest)


def different_files(engine: Engine, product: Product) -> list[str]:
    """Names of the product's files that are not there or hold other bytes than the stages made. Reads what is new."""
    memo = ProductMemo(engine.store.root / "product-digests.json")
    files = shipped(engine, product)
    wrong = [name for name, (_, _, blob) in files.items() if not memo.matches(product.folder / name, blob)]
    memo.save()
    return wrong


def product_key(engine: Engine, product: Product) -> str:
    """Digest of everything that the manifest says, but for the manifest itself."""
    keys = {name: engine.outcomes[node.id].record.key for name, node in product.nodes.items()}
    return digest("product", [MANIFEST_FORMAT, product.name, _plain(product.recipe), keys])


def publish(engine: Engine, product: Product) -> Published:
    """Assemble and put in place. Every stage of the product, the gate too, must have an outcome.

    The former product is exchanged in one step and stays whole until then. Raises StageFailed when the disk is full.
    """
    missing = [name for name, node in product.nodes.items() if node.id not in engine.outcomes]
    if missing:
        raise StageFailed(f"{product.name}: not published, because {', '.join(missing)} did not pass")
    product.folder.parent.mkdir(parents=True, exist_ok=True)
    files = shipped(engine, product)
    engine.absent(blob for _, _, blob in files.values())  # fetches what is missing, all at once
    sources = {name: engine.materialise(edge)[there] for name, (edge, there, _) in files.items()}
    manifest = make_manifest(engine, product, {name: blob for name, (_, _, blob) in files.items()})
    if tried := _engines_tried(product.folder, manifest["files"]):
        manifest["engines"] = tried
    with disk_full(product.folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{product.name}-", dir=product.folder.parent))
        try:
            for name, path in sources.items():
                copy_verified(path, scratch / name, files[name][2])
            (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            scratch.chmod(0o755)
            put_in_place(scratch, product.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    memo = ProductMemo(engine.store.root / "product-digests.json")
    for name, (_, _, blob) in files.items():
        memo.remember(product.folder / name, blob)
    memo.save()
    return Published(product, "built", _size(product.folder), manifest)


def make_manifest(engine: Engine, product: Product, files: Mapping[str, Blob]) -> dict[str, Any]:
    """What the product is and where it came from; no time and no path of this machine but what the recipe says."""
    records = {name: engine.outcomes[node.id].record for name, node in product.nodes.items()}
    tools: dict[str, str] = {}
    for record in records.values():
        tools.update(record.ingredients["tools"])
    return {
        "format": MANIFEST_FORMAT,
        "name": product.name,
        "key": product_key(engine, product),
        "recipe": {
            part: product.recipe[part].get("name", "")
            for part in ("model", "quant", "target")
            if isinstance(product.recipe.get(part), Mapping)
        },
        "config": _plain(product.recipe),
        "sources": {
            name: _source(engine, node.id) for name, node in product.sources.items() if node.id in engine.sources
        },
        "tools": dict(sorted(tools.items())),
        "files": {name: {"sha256": blob.sha256, "size": blob.size} for name, blob in sorted(files.items())},
        "stages": {name: {"key": record.key, "output": record.output} for name, record in records.items()},
        "engine": _engine_needs(product, files),
        "notes": [f"{name}: {note}" for name, record in records.items() for note in record.notes],
        "model": {key: value for key, value in _output(engine, product, LAYOUT).items() if key in LAYOUT_FACTS},
        "tokenizer": _output(engine, product, TOKENIZER_FACTS),
        **_adapters(engine, product),
        "weights": {stage: _precisions(linears) for stage, linears in _linears(engine, product)},
        "verification": _verification(engine, product),
    }


def _linears(engine: Engine, product: Product) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Stage and what it wrote of each linear, for the stages that wrote any."""
    for stage, file in WEIGHTS:
        if linears := _output(engine, product, (stage, file)).get("linears"):
            yield stage, linears


def _precisions(linears: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By linear: what the rules came to, and ‖W − W'‖ / ‖W‖ where that was measured."""
    table = {}
    for name, entry in sorted(linears.items()):
        table[name] = {key: entry[key] for key in PRECISION if key in entry}
        if entry.get("squared_norm"):
            table[name]["relative_error"] = float(f"{(entry['squared_error'] / entry['squared_norm']) ** 0.5:.3g}")
    return table


def _adapters(engine: Engine, product: Product) -> dict[str, Any]:
    """Split adapters by name, and what was proved of each; a product without any has no such key."""
    adapters = _output(engine, product, ADAPTERS)
    if not adapters:
        return {}
    report = _output(engine, product, ADAPTER_REPORT)
    return {"adapters": {name: {**facts, "verification": report.get(name)} for name, facts in adapters.items()}}


def _engines_tried(folder: Path, files: Mapping[str, Any]) -> dict[str, Any]:
    """What `doit verify engines=…` found out about the same bytes before; {} if nothing."""
    try:
        former = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = isinstance(former, dict) and former.get("files") == files
    return dict(former.get("engines", {})) if same else {}


def _engine_needs(product: Product, files: Mapping[str, Blob]) -> dict[str, Any]:
    """The oldest engine version that runs the product, and the CMake switches that it must have been built with."""
    target = product.recipe.get("target") or {}
    encoders = [switch for file, switches in ENCODERS.items() if file in files for switch in switches]
    return {"oldest": target.get("engine", ""), "built_with": [*target.get("requires", ()), *encoders]}


def _verification(engine: Engine, product: Product) -> dict[str, Any]:
    mode = (product.recipe.get("verify") or {}).get("mode", "off")
    report = next(filter(None, (_output(engine, product, where) for where in REPORTS)), {})
    exactness = _output(engine, product, EXACTNESS)
    kept = {"source_weights": exactness} if exactness else {}
    return {"mode": mode, "verified": True, "report": report, **kept} if report else {"mode": mode, "verified": False}


def _output(engine: Engine, product: Product, which: tuple[str, str]) -> dict[str, Any]:
    """The content of a stage's JSON file; empty if the product has no such stage, or the stage wrote no such file."""
    stage, name = which
    node = product.nodes.get(stage)
    if node is None or name not in engine.outcomes[node.id].record.files:
        return {}
    found = json.loads(engine.materialise(Edge(node, (name,)))[name].read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _source(engine: Engine, node_id: str) -> dict[str, Any]:
    found = engine.sources[node_id]
    files = {name: {"sha256": blob.sha256, "size": blob.size} for name, blob in sorted(found.files.items())}
    return {"kind": found.kind, "revision": found.revision, "files": files}


def put_in_place(scratch: Path, folder: Path) -> None:
    """Rename `scratch` to `folder`; if that exists, exchange the two: there is a whole product at any moment."""
    if not folder.exists():
        os.rename(scratch, folder)
    elif not _exchange(scratch, folder):
        aside = scratch.with_name(f"{scratch.name}.old")
        os.rename(folder, aside)
        os.rename(scratch, folder)
        shutil.rmtree(aside)


class ProductMemo:
    """Digests of published files by identity (inode, size, mtime, ctime): a no-op must not read gigabytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            loaded = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            loaded = {}
        self._entries: dict[str, list[Any]] = loaded if isinstance(loaded, dict) else {}

    def matches(self, path: Path, blob: Blob) -> bool:
        """Whether the file holds the blob's bytes; reads it only if its identity is new."""
        try:
            now = list(identity(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        if self._entries.get(str(path)) == [now, blob.sha256]:
            return True
        from pipeline.build.store import hash_file

        if now[1] != blob.size or hash_file(path) != blob.sha256:
            return False
        self.remember(path, blob)
        return True

    def remember(self, path: Path, blob: Blob) -> None:
        """Note that the file holds the blob's bytes."""
        self._entries[str(path)] = [list(identity(path)), blob.sha256]
        self._changed = True

    def save(self) -> None:
        """Write the memo if it changed; entries of files that are gone are left out."""
        if not self._changed:
            return
        entries = {path: entry for path, entry in self._entries.items() if os.path.exists(path)}
        scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):  # on a full disk the next run reads the product once more
            scratch.write_text(json.dumps(entries))
            os.replace(scratch, self._path)


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe but for where the store lies, which says nothing of the product."""
    return {key: value for key, value in json.loads(json.dumps(recipe)).items() if key != "cache"}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _exchange(one: Path, other: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
