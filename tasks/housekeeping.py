"""`doit clean` removes products, `doit forget` the records of what was built. doit's own two commands, on our store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit import Globals

from pipeline.build.product import MANIFEST
from pipeline.build.store import Store
from pipeline.errors import PipelineError
from tasks.places import artifacts, shown, store_folder
from tasks.request import Request
from tasks.session import session
from tasks.stages import task_name

Task = dict[str, Any]


def housekeeping_tasks(request: Request) -> Iterator[Task]:
    """Sub-tasks of `export` for the two commands. Without overrides: every product, every record."""
    if request.command == "clean":
        yield from _clean_tasks(request)
    if not request.overrides:
        _forget_through({"export": lambda: _forget_all(Store(store_folder()))})
    else:
        yield from _forget_tasks()


def _clean_tasks(request: Request) -> Iterator[Task]:
    folders = [product.folder for product in session().graph.products] if request.overrides else _products()
    for folder in folders:
        yield {"name": f"product:{folder.name}", "actions": None, "clean": [_Remove(folder)]}


def _products() -> list[Path]:
    """Folders under artifacts/ that a manifest of ours marks as products."""
    return sorted(path.parent for path in artifacts().glob(f"*/{MANIFEST}"))


class _Remove:
    """A clean action; doit passes `dryrun` by its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.__name__ = "remove"

    def __call__(self, dryrun: bool) -> None:
        if not (self._folder / MANIFEST).is_file():
            return
        print(f"{'would remove' if dryrun else 'removed'} {shown(self._folder)}")
        if not dryrun:
            shutil.rmtree(self._folder)


def _forget_tasks() -> Iterator[Task]:
    """A task for each stage that has a record; forgetting the task removes the record."""
    run = session()
    actions: dict[str, Callable[[], None]] = {}
    for source in run.graph.sources.values():
        try:
            run.engine.resolve(source, run.terminal.log(source.name))
        except PipelineError:
            continue  # a source that is gone has nothing below it that could be found
    for node in run.graph.nodes.values():
        record = run.engine.recorded(node)
        if record is not None:
            name = f"forget:{task_name(node)}"
            actions[f"export:{name}"] = _forgetter(run.engine.store, record.stage, record.key)
            yield {"name": name, "actions": None}
    _forget_through(actions)


def _forgetter(store: Store, stage: str, key: str) -> Callable[[], None]:
    return lambda: store.forget(stage, key)


def _forget_all(store: Store) -> None:
    for record in list(store.records()):
        store.forget(record.stage, record.key)


def _forget_through(actions: dict[str, Callable[[], None]]) -> None:
    """Let doit's `forget` (and `clean --forget`) act on the store: doit asks its database to remove a task by name."""
    database = Globals.dep_manager

    def remove(name: str) -> None:
        actions.get(name, lambda: None)()

    def remove_all() -> None:
        _forget_all(Store(store_folder()))

    database.remove, database.remove_all = remove, remove_all
