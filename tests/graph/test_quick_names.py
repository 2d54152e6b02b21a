"""transformers learns the same names of its models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import import_utils

from pipeline.graph import quick_names
from pipeline.graph.quick_names import TOOLS, shortened

MODELS = sorted((Path(transformers.__file__).parent / "models").glob("*/*.py"))
LINES = st.sampled_from(
    ["", "x = 1", '__all__ = ["One", "Two"]', "__all__ = [", '    "Three",', "]", "    __all__ = 3", "y = __all__"]
)


def run(*lines: str) -> str:
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names_of_all_models() -> None:
    assert len(MODELS) > 1000
    find = shortened(import_utils.fetch__all__)
    sources = {path: path.read_text("utf-8") for path in MODELS}
    assert {path: find(text) for path, text in sources.items()} == {
        path: import_utils.fetch__all__(text) for path, text in sources.items()
    }


@given(lines=st.lists(LINES, max_size=8), end=st.sampled_from(["", "\n"]))
def test_any_source(lines: list[str], end: str) -> None:
    source = "\n".join(lines) + end
    assert shortened(import_utils.fetch__all__)(source) == import_utils.fetch__all__(source)


def test_it_waits_once_and_only_for_what_is_to_come() -> None:
    told = run(
        "import sys",
        "from pipeline.graph import quick_names",
        "waiting = lambda: sum(isinstance(finder, quick_names._Changing) for finder in sys.meta_path)",
        "quick_names.prepare(); quick_names.prepare()",
        "print(waiting())",
        "import transformers",
        f"tools = sys.modules['{TOOLS}']",
        "print(waiting(), tools.fetch__all__.__module__)",
        "quick_names.prepare()",
        "print(waiting())",
    )
    assert told.split() == ["1", "0", "pipeline.graph.quick_names", "0"]


def test_the_functions_of_another_transformers_are_left_alone() -> None:
    module = type(sys)("tools")
    quick_names.change(module)
    assert not {name for name in vars(module) if not name.startswith("__")}
