"""The tokenizer stage: reads the checkpoint's folder, writes the file and the facts, says what it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import StageFailed
from pipeline.stages.tokenizer import STAGE, run
from tests.tokenizer import tiny

CONFIG = {"bos_token": "<s>", "eos_token": "</s>"}


class Notes:
    """Keeps what the stage says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, done: int, total: int, what: str) -> None:
        """Not used by this stage."""

    def note(self, text: str) -> None:
        self.lines.append(text)


def _run(folder: Path, out: Path, **target: object) -> Notes:
    out.mkdir()
    notes = Notes()
    run({"target": target}, {"checkpoint": folder}, out, notes)
    return notes


def test_writes_file_and_facts_and_nothing_else(tmp_path: Path) -> None:
    notes = _run(tiny.save(tiny.gpt2(), tmp_path / "in", CONFIG), tmp_path / "out", tokenizer_format="mtok")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tokenizer.json", "tokenizer.mtok"]
    facts = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    assert (facts["stop_ids"], facts["vocab_size"], facts["bos_token"]) == ([2], 900, "<s>")
    assert notes.lines == ["BPE tokenizer, 900 ids, stops at 2"]


def test_old_engines_get_the_old_file(tmp_path: Path) -> None:
    _run(tiny.save(tiny.gpt2(), tmp_path / "in", CONFIG), tmp_path / "out", tokenizer_format="txt")
    assert (tmp_path / "out" / "tokenizer.txt").read_bytes().startswith(b"430 3\n")


def test_rewrites_and_fallbacks_are_said(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ loop.index % 2 }}{% endfor %}"
    folder = tiny.save(tiny.gpt2(), tmp_path / "in", CONFIG, template)
    with pytest.raises(StageFailed, match="plain_template"):
        _run(folder, tmp_path / "refused")
    assert any(
        "plain chat template, on request" in line for line in _run(folder, tmp_path / "out", plain_template=True).lines
    )


def test_stage_declares_what_it_reads() -> None:
    assert [given.stage for given in STAGE.inputs] == ["checkpoint"]
    assert set(STAGE.config) == {"model.task", "target.tokenizer_format", "target.plain_template"}
    assert not any(Path("model.safetensors").match(pattern) for pattern in STAGE.inputs[0].files)


def test_stage_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    tiny.save(tiny.gpt2(), tmp_path / "in", CONFIG, "{{ messages }}")
    code = (
        "import sys; from pathlib import Path; from pipeline.tokenizer.build import write; "
        "from pipeline.tokenizer.folder import TokenizerFolder; "
        f"write(TokenizerFolder.open(Path({str(tmp_path / 'in')!r})), Path({str(tmp_path)!r})); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
