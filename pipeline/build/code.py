"""The digest of a stage's code: what a change of would change its output, and nothing else.

Over the syntax trees, without docstrings, comments and line numbers, of the stage's module, of every `pipeline` module
that it imports (at any depth, also inside functions), and over the data files beside them. Not counted:
`pipeline.build` and `pipeline.errors`, which carry a stage but compute none of its bytes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.build.canonical import digest

ROOT = Path(__file__).resolve().parents[2]
UNCOUNTED = ("pipeline.build", "pipeline.errors")
SOURCE_SUFFIXES = (".py", ".pyc", ".pyi", ".so")
MEMO_FORMAT = 1


def memo_file(store: Path) -> Path:
    """Where digests of this code are remembered: beside its bytecode and its compiled loops, so that a new store need
    not parse the code again (a second of every first build); in the store if the code's folder cannot be written.
    Named after the Python version, as bytecode is: syntax trees differ."""
    code = ROOT / "pipeline"
    folder = code / "__pycache__"
    beside = os.access(folder if folder.is_dir() else code, os.W_OK)
    return (folder if beside else store) / f"code-digests.{sys.implementation.cache_tag}.json"


class CodeDigests:
    """Digests of modules, remembered in `memo` by (path, inode, size, mtime, ctime) of each file."""

    def __init__(self, memo: Path | None = None, root: Path = ROOT) -> None:
        self._memo_path = memo
        self._root = root
        self._memo = _load(memo)
        self._changed = False
        self._modules: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._closures: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
        self._files: dict[str, Path | None] = {}
        self._known: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {}
        self._listings: dict[Path, frozenset[str]] = {}
        self._data: dict[Path, dict[str, str]] = {}

    def closure(self, module: str, extra: Iterable[str] = ()) -> dict[str, str]:
        """File (a module, or data beside it; POSIX, relative to the root) → digest, for `module` and what it imports.

        extra: further modules, or packages with all that is in them, that `module` imports by computed names.
        """
        key = (module, tuple(extra))
        if key not in self._closures:
            self._closures[key] = self._collect(module, key[1])
        return self._closures[key]

    def save(self) -> None:
        """Write the memo if it changed; whole files only, so that two processes cannot mix."""
        if not self._changed or self._memo_path is None:
            return
        scratch = self._memo_path.with_name(f".{self._memo_path.name}.{os.getpid()}")
        with suppress(OSError):  # a full disk costs the next run a second
            self._memo_path.parent.mkdir(exist_ok=True)
            scratch.write_text(json.dumps({"format": MEMO_FORMAT, "files": self._memo}))
            os.replace(scratch, self._memo_path)
            self._changed = False

    def _collect(self, module: str, extra: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        pending = [module, *(name for one in extra for name in self._below(one))]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                files, dependencies = self._direct(name)
                found.update(files)
                pending += dependencies
        return dict(sorted(found.items()))

    def _direct(self, name: str) -> tuple[dict[str, str], tuple[str, ...]]:
        """Digests of the module's own file and of the data beside it, and the modules of ours that it imports."""
        if name not in self._known:
            path = None if _uncounted(name) else self._file(name)
            self._known[name] = ({}, ()) if path is None else self._read(name, path)
        return self._known[name]

    def _read(self, name: str, path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
        file_digest, imports = self._module(path)
        files = {self._relative(path): file_digest, **self._data_beside(path.parent)}
        ours = [one for one in imports if self._may_be_ours(one)]
        candidates = dict.fromkeys(_candidates(name, ours, path.name == "__init__.py"))
        return files, tuple(one for one in candidates if self._file(one) is not None)

    def _may_be_ours(self, name: str) -> bool:
        """Whether it lies below the root or is relative: most imports are other distributions', and need no look-up."""
        first, names = name.partition(".")[0], self._names(self._root)
        return not first or first in names or f"{first}.py" in names

    def _relative(self, path: Path) -> str:
        """POSIX, relative to the root; `Path.relative_to` takes ten times as long, for each of two hundred files."""
        return str(path)[len(str(self._root)) + 1 :].replace(os.sep, "/")

    def _file(self, name: str) -> Path | None:
        """The file of a module under the root, or None for anything else (other distributions, names in modules)."""
        if name not in self._files:
            *parents, leaf = name.split(".")
            folder = self._root.joinpath(*parents)
            names = self._names(folder)
            if leaf in names and "__init__.py" in self._names(folder / leaf):
                self._files[name] = folder / leaf / "__init__.py"
            else:
                self._files[name] = folder / f"{leaf}.py" if f"{leaf}.py" in names else None
        return self._files[name]

    def _names(self, folder: Path) -> frozenset[str]:
        """What is in a folder; looking each of a thousand candidates up by itself takes a tenth of a second."""
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def _below(self, name: str) -> Iterator[str]:
        """`name` itself and, if it is a package, every module in it."""
        yield name
        folder = self._root.joinpath(*name.split("."))
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else ():
            yield ".".join(path.relative_to(self._root).with_suffix("").parts).removesuffix(".__init__")

    def _module(self, path: Path) -> tuple[str, tuple[str, ...]]:
        if str(path) not in self._modules:
            self._modules[str(path)] = self._remembered(path)
        return self._modules[str(path)]

    def _remembered(self, path: Path) -> tuple[str, tuple[str, ...]]:
        stamp = _stamp(path)
        known = self._memo.get(str(path))
        if known is not None and known[0] == stamp:
            return str(known[1]), tuple(known[2])  # type: ignore[arg-type]
        text = path.read_bytes()
        if path.suffix == ".py":
            tree = ast.parse(text, str(path))
            imports = tuple(sorted(set(_imports(tree))))
            file_digest = digest("code", ast.dump(_without_docstrings(tree)))
        else:
            imports, file_digest = (), hashlib.sha256(text).hexdigest()
        self._memo[str(path)] = [stamp, file_digest, list(imports)]
        self._changed = True
        return file_digest, imports

    def _data_beside(self, folder: Path) -> dict[str, str]:
        if folder not in self._data:
            found = _data_files(folder) if folder != self._root else ()
            self._data[folder] = {self._relative(file): self._module(file)[0] for file in found}
        return self._data[folder]


def code_digest(closure: dict[str, str]) -> str:
    """One digest over a closure."""
    return digest("closure", closure)


def _uncounted(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in UNCOUNTED)


def _data_files(folder: Path) -> tuple[Path, ...]:
    return tuple(
        sorted(
            Path(one.path)
            for one in os.scandir(folder)
            if one.is_file() and not one.name.startswith(".") and not one.name.endswith(SOURCE_SUFFIXES)
        )
    )


def _candidates(importer: str, imports: Iterable[str], is_package: bool) -> list[str]:
    """Absolute names that `importer` imports, with their parent packages (whose __init__ runs as well)."""
    names = []
    package = importer if is_package else importer.rpartition(".")[0]
    for name in (*imports, importer):
        absolute = _absolute(name, package)
        parts = absolute.split(".")
        names += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return names


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    base = package.split(".")
    return ".".join([*base[: len(base) - level + 1], name.lstrip(".")])


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that an import statement may load: modules, and names that might be modules of a package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            joint = "" if base.endswith(".") or not base else "."
            yield from (f"{base}{joint}{alias.name}" for alias in node.names if alias.name != "*")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return tree


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _load(path: Path | None) -> dict[str, list[object]]:
    if path is None:
        return {}
    try:
        memo = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    good = isinstance(memo, dict) and memo.get("format") == MEMO_FORMAT and isinstance(memo.get("files"), dict)
    return dict(memo["files"]) if good else {}
