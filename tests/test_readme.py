"""The front door: every command, file and recipe key that README.md names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.recipe.compose import compose
from pipeline.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The shell block behind `<!-- command: NAME -->`, as .ci/run finds it."""
    found = re.search(rf"<!-- command: {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no command: {name}"
    return found[1].strip()


def output(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_commands_are_one_line_and_stay_inside_the_clone() -> None:
    tests = ".venv/bin/python -m pytest -n 2 --dist worksteal"
    for name, last in (("export", ".venv/bin/doit export"), ("test", tests)):
        command = block(name)
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(last)
        assert all(part.strip().startswith((".venv/bin/", "python3 -m venv .venv")) for part in command.split("&&"))
        assert (ROOT / "constraints.txt").is_file()


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- command: test -->" in script
    assert "pytest" not in re.sub(r"#.*", "", script)  # it has no command of its own


def test_every_verb_of_the_pipeline_is_there() -> None:
    named = set(re.findall(r"python -m pipeline ([a-z]+)", README))
    listed = set(re.findall(r"^  ([a-z]+) ", output("-m", "pipeline"), re.MULTILINE))
    assert named
    assert named <= listed


def test_every_verb_of_doit_is_there() -> None:
    named = set(re.findall(r"(?:^|[`$/] ?)doit ([a-z]+)", README, re.MULTILINE))
    listed = set(re.findall(r"^([a-z]+) ", output("-m", "doit", "list"), re.MULTILINE))
    assert {"export", "plan", "models"} <= named
    assert named <= listed


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_key_of_the_table_is_a_key_of_the_recipe() -> None:
    table = README[README.index("| key | meaning |") : README.index("`doit` alone lists")]
    keys = re.findall(r"`([a-z]+\.[a-z_]+)", table)
    assert len(keys) > 10
    for key in set(keys) - {"config.json", "pipeline.lock"}:
        section, field = key.split(".")
        assert hasattr(getattr(Recipe(), section), field), key


@pytest.mark.parametrize("line", re.findall(r"doit export ((?:[a-z_.]+=\S+ ?)+)$", README, re.MULTILINE))
def test_every_export_of_the_readme_is_a_recipe_or_the_error_that_it_shows(line: str) -> None:
    if f"$ doit export {line}\nERROR" in README:
        with pytest.raises(Exception, match="unknown model"):
            compose(line.split())
    else:
        assert compose(line.split())
