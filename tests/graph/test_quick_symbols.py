"""The stand-ins' answers are torch's own, and what they do not know comes from the real modules."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental import symbolic_shapes

from pipeline.graph.quick_symbols import ANSWERS

CONDITIONS = [name for name in ANSWERS if name not in ("guarding_hint_or_throw", "has_guarding_hint", "is_nested_int",
                                                       "sym_and", "sym_eq", "sym_or")]
sizes = st.lists(st.integers(0, 4), max_size=3)


@pytest.mark.parametrize("name", CONDITIONS)
@given(condition=st.booleans())
def test_conditions(name: str, condition: bool) -> None:
    assert ANSWERS[name](condition) is getattr(symbolic_shapes, name)(condition)


@pytest.mark.parametrize("name", ["guarding_hint_or_throw", "has_guarding_hint", "is_nested_int"])
@given(size=st.integers(-1, 1 << 40))
def test_sizes(name: str, size: int) -> None:
    assert ANSWERS[name](size) == getattr(symbolic_shapes, name)(size)


@pytest.mark.parametrize("name", ["sym_and", "sym_or"])
@given(conditions=st.lists(st.booleans(), min_size=1, max_size=4))
def test_logic(name: str, conditions: list[bool]) -> None:
    assert ANSWERS[name](*conditions) is getattr(symbolic_shapes, name)(*conditions)


@given(one=sizes, other=sizes, kinds=st.tuples(st.sampled_from([list, tuple]), st.sampled_from([list, tuple])))
def test_equality(one: list[int], other: list[int], kinds: tuple[Any, Any]) -> None:
    first, second = kinds[0](one), kinds[1](other)
    assert ANSWERS["sym_eq"](first, second) is symbolic_shapes.sym_eq(first, second)
    assert ANSWERS["sym_eq"](first, first) is True


def _fresh(*lines: str) -> list[str]:
    code = "\n".join(("import sys", "from pipeline.graph import quick_import", "import torch", *lines))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


def test_operators_without_values_import_no_sympy() -> None:
    found = _fresh(
        "x = torch.empty(2, 3, 8, device='meta')",
        "y = torch.softmax((x / 3 + torch.arange(8, device='meta')) @ x.mT, -1).reshape(6, 3)[:, None].expand(6, 5, 3)",
        "print(*y.shape, 'sympy.core' in sys.modules)",
    )
    assert found == ["6", "5", "3", "False"]


def test_symbols_get_the_real_module() -> None:
    """A symbolic size through a stand-in's own function, a name that it does not have, and a submodule."""
    found = _fresh(
        "from torch.fx.experimental.symbolic_shapes import guard_or_false, guard_or_true, sym_eq",
        "from torch.fx.experimental.symbolic_shapes import ShapeEnv",
        "import sympy.core.numbers, sympy",
        "size = ShapeEnv().create_unbacked_symint()",
        "print(type(sym_eq(size, 7)).__name__, guard_or_false(size == 7), guard_or_true(size == 7))",
        "print(sympy.Integer(4) / 2, sympy.core.numbers.Integer(2) == 2)",
    )
    assert found == ["SymBool", "False", "True", "2", "True"]


def test_a_worker_s_list_of_imports_wakes_no_stand_in() -> None:
    """A worker ends by looking through all modules; to ask a stand-in for its file must not import the real one."""
    found = _fresh(
        "from pipeline.build.worker import _imported",
        "ours = _imported()",
        "files = [getattr(module, '__file__', None) for module in list(sys.modules.values())]",
        "print(any(name.endswith('graph/quick_symbols.py') for name in ours), len(files) > 500)",
        "print(*(name in sys.modules for name in ('sympy.core', 'torch._dynamo.eval_frame')))",
    )
    assert found == ["True", "True", "False", "False"]
