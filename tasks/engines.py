"""`doit verify engines=3.4.0,3.6.1`: the same product on other versions of the engine, each in its own environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.build.nodes import Product
from pipeline.build.product import MANIFEST, different_files
from pipeline.build.store import Store
from pipeline.errors import StageFailed, UserError
from tasks.failures import guarded
from tasks.places import shown, store_folder
from tasks.request import current, start_folder

Task = dict[str, Any]
SECONDS = 300.0  # for one version: loading, one answer, the logits


def engine_tasks() -> Iterator[Task]:
    """Folders named on the command line as they lie there; else the recipe's products, once their stages are known."""
    request = current()
    if request.folders:
        for name in request.folders:
            yield _folder_task(start_folder() / name, request.engines)
        return
    from tasks.session import session
    from tasks.stages import stage_tasks

    run = session()
    for product in run.graph.products:
        _must_exist(product.folder)

    def finish(product: Product) -> None:
        wrong = different_files(run.engine, product)
        if wrong:
            raise StageFailed(
                f"{shown(product.folder)}: {', '.join(wrong)} differ from what the recipe makes",
                "publish it again: doit export with the same recipe",
            )
        try_engines(product.folder, request.engines, run.engine.store, run.terminal.say)

    yield from stage_tasks("verify", run, finish)


def _folder_task(folder: Path, engines: tuple[str, ...]) -> Task:
    _must_exist(folder)
    store = Store(store_folder())

    def action() -> None:
        try_engines(folder, engines, store, print)

    return {"name": f"engines:{folder.name}", "actions": [guarded(str(folder), action)], "io": {"capture": False}}


def _must_exist(folder: Path) -> None:
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{shown(folder)} is not there", "make it first: doit export with the same recipe")


def try_engines(folder: Path, engines: tuple[str, ...], store: Store, say: Callable[[str], None]) -> None:
    """Prints the matrix of one product and writes it into the manifest.

    Raises StageFailed if a version from the product's floor on does not run it right; older ones are only told.
    """
    import numpy as np

    from pipeline.build.console import table
    from pipeline.mnn.versions import matrix
    from pipeline.mnn.versions.environment import interpreter
    from pipeline.mnn.versions.trial import attempt

    manifest = matrix.read_manifest(folder)
    reference, logits = _reference(manifest, store, folder)
    pythons = {version: interpreter(version, lambda line: say(f"  {line}")) for version in engines}
    questions, limits = matrix.questions_of(reference, manifest), matrix.limits_of(manifest)
    rows = []
    for version, python in pythons.items():
        trial = attempt(version, python, folder / "config.json", questions, SECONDS)
        rows.append(matrix.judge(trial, np.load(logits, mmap_mode="r")[0], limits))
    floor = str(manifest["config"]["target"]["engine"])
    matrix.keep(folder, rows)
    say(f"\n  {shown(folder)}, made for engines from {floor} on\n{table(matrix.cells(rows), right=(2, 3, 4))}")
    if broken := matrix.broken_floor(rows, floor):
        raise StageFailed(
            f"{shown(folder)} is for engines from {floor} on, but {', '.join(broken)} does not run it right",
            "choose another target, or raise target.engine",
        )


def _reference(manifest: dict[str, Any], store: Store, folder: Path) -> tuple[dict[str, Any], Path]:
    """(reference.json, logits.npy) that the gate compared with, from the store. Raises UserError, StageFailed."""
    said = manifest.get("stages", {}).get("reference")
    if said is None:
        raise UserError(
            f"{shown(folder)} has no reference logits: made with verify=off, or it writes no text",
            "export a language model with verify=fast",
        )
    record = store.find("reference", said["key"])
    if record is None or not all(store.verified(blob) for blob in record.files.values()):
        raise StageFailed(f"the reference of {shown(folder)} is not in the store", "doit export with its recipe")
    reference = json.loads(store.blob_path(record.files["reference.json"].sha256).read_text("utf-8"))
    if reference["logits"] is None:
        raise StageFailed(f"{shown(folder)} has no reference logits: {reference['skipped']}", "verify a smaller model")
    return reference, store.blob_path(record.files[reference["logits"]].sha256)
