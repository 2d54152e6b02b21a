"""The dispatcher: exit codes, and one clear line instead of a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import VERBS, main


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_an_unknown_verb_is_the_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caht"]) == 3
    assert capsys.readouterr().err.startswith("error: there is no 'caht'. Did you mean 'chat'?")


@pytest.mark.parametrize("verb", ["chat", "run", "bench", "serve", "inspect", "config"])
def test_a_product_that_is_not_there(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text("Hi\n")
    more = [str(tmp_path / "p.txt")] if verb == "run" else []
    assert main([verb, str(tmp_path / "nothing"), *more]) == 3
    assert "error: no product at" in capsys.readouterr().err


def test_verbs_do_not_pay_for_each_other() -> None:
    """Neither the dispatcher nor a verb that only reads files imports torch, numba or the engine."""
    program = (
        "import sys; import pipeline.__main__, pipeline.use.inspect, pipeline.use.config\n"
        "print([m for m in ('torch', 'transformers', 'MNN', 'numba', 'starlette', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_leaves_early(product: Path) -> None:
    command = f"{sys.executable} -m pipeline inspect {product} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == str(product)
    assert done.stderr == ""
