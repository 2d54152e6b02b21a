"""Expressions of a template in the engine's dialect, which reads a subset of Jinja and misreads some of the rest.

Every compound expression gets parentheses: the engine's precedence then does not matter. Each rewrite that changes
what the engine would have done adds a line to `Scope.notes`. Facts: docs/tokenizers.md, "The engine's Jinja".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jinja2 import nodes

from pipeline.tokenizer.definition import unsupported

COMPARISONS = {"eq": "==", "ne": "!=", "gt": ">", "gteq": ">=", "lt": "<", "lteq": "<=", "in": "in", "notin": "not in"}
TEST_COMPARISONS = {
    "eq": "==",
    "equalto": "==",
    "==": "==",
    "sameas": "==",
    "ne": "!=",
    "!=": "!=",
    "in": "in",
    "gt": ">",
    "greaterthan": ">",
    "lt": "<",
    "lessthan": "<",
    "ge": ">=",
    "le": "<=",
}
TESTS = ("defined", "undefined", "none", "boolean", "string", "number", "true", "false")
METHODS = {
    "startswith": (1, 1),
    "endswith": (1, 1),
    "split": (1, 1),
    "strip": (0, 1),
    "lstrip": (0, 1),
    "rstrip": (0, 1),
    "replace": (2, 2),
}
FILTERS = ("length", "string", "upper", "lower", "capitalize", "items")
FUNCTIONS = ("range", "namespace", "strftime_now", "raise_exception")
DICT_METHODS = frozenset(dir(dict)) | frozenset(dir(str))
UNDEFINED = "_undefined"


@dataclass
class Scope:
    """What the emission of a template collects.

    notes: what was rewritten. helpers: names of macros needed. pending: statements to go before the current one.
    constants: names with a value known now. known: names that are defined wherever they are used. loops: for every
    open loop, the variable that holds its list (or "").
    """

    constants: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    pending: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=lambda: {"messages"})
    macros: dict[str, nodes.Macro] = field(default_factory=dict)
    loops: list[str] = field(default_factory=list)
    counter: int = 0

    def note(self, text: str) -> None:
        """Records a rewrite, once."""
        if text not in self.notes:
            self.notes.append(text)

    def fresh(self, stem: str) -> str:
        """A name that no template uses."""
        self.counter += 1
        return f"_{stem}{self.counter}"


def literal(text: str) -> str:
    """A string literal that both Jinjas read alike."""
    for char, escape in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(char, escape)
    return f"'{text}'"


class Expressions:
    """`text(node)` is the node in the engine's dialect. Raises StageFailed naming what has no counterpart."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.writers: dict[type[nodes.Expr], Callable[..., str]] = {
            nodes.Const: self._const,
            nodes.TemplateData: lambda node: literal(node.data),
            nodes.Name: self._name,
            nodes.Getattr: self._getattr,
            nodes.Getitem: self._getitem,
            nodes.Call: self._call,
            nodes.Filter: self._filter,
            nodes.Test: self._test,
            nodes.CondExpr: self._conditional,
            nodes.And: self._and,
            nodes.Or: self._or,
            nodes.Compare: self._compare,
            nodes.Concat: self._concat,
            nodes.Not: lambda node: f"(not {self.condition(node.node)})",
            nodes.Add: lambda node: self._binary("+", node),
            nodes.Sub: lambda node: self._binary("-", node),
            nodes.Neg: lambda node: f"(-{self.text(node.node)})",
            nodes.Pos: lambda node: self.text(node.node),
            nodes.List: self._list,
            nodes.Tuple: self._list,
            nodes.Dict: self._dict,
        }

    def text(self, node: nodes.Node) -> str:
        """As a value."""
        if type(node) not in self.writers:
            raise unsupported(f"template expression {type(node).__name__} (line {node.lineno} of the chat template)")
        assert isinstance(node, nodes.Expr)
        return self.writers[type(node)](node)

    def condition(self, node: nodes.Node) -> str:
        """Where only truth matters: the engine's `and` and `or` give booleans."""
        if isinstance(node, nodes.And | nodes.Or):
            word = "and" if isinstance(node, nodes.And) else "or"
            return f"({self.condition(node.left)} {word} {self.condition(node.right)})"
        return self.text(node)

    def chain(self, node: nodes.Node) -> str:
        """An expression that can be followed by `.name`, `[key]` or `.method()`: the engine allows that after names."""
        if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem | nodes.Call):
            text = self.text(node)
            if not text.startswith(("(", "[", "{", "'")):
                return text
        return self.hoist(node)

    def hoist(self, node: nodes.Node) -> str:
        """The value in a variable that is set before the current statement."""
        value, name = self.text(node), self.scope.fresh("v")
        self.scope.pending.append(f"{{% set {name} = {value} %}}")
        self.scope.known.add(name)
        self.scope.note("values that are indexed or called on get a variable of their own")
        return name

    def _const(self, node: nodes.Const) -> str:
        value = node.value
        if value is None:
            return "none"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        if isinstance(value, str):
            return literal(value)
        raise unsupported(f"template constant {value!r}")

    def _name(self, node: nodes.Name) -> str:
        if node.name in self.scope.constants:
            self.scope.note(f"{node.name} is written as its text")
            return literal(self.scope.constants[node.name])
        return str(node.name)

    def _getattr(self, node: nodes.Getattr) -> str:
        if isinstance(node.node, nodes.Name) and node.node.name == "loop" and self.scope.loops:
            return self._loop_attribute(node.attr)
        return f"{self.chain(node.node)}.{node.attr}"

    def _loop_attribute(self, name: str) -> str:
        items = self.scope.loops[-1]
        rewritten = {
            "revindex": "(loop.length - loop.index0)",
            "revindex0": "(loop.length - loop.index)",
            "nextitem": f"({UNDEFINED} if loop.last else {items}[loop.index])",
            "previtem": f"({UNDEFINED} if loop.first else {items}[(loop.index0 - 1)])",
        }
        if name in rewritten:
            self.scope.note(f"loop.{name} is computed from the loop's list")
            return rewritten[name]
        if name not in ("index", "index0", "first", "last", "length"):
            raise unsupported(f"loop.{name} in chat templates")
        return f"loop.{name}"

    def _getitem(self, node: nodes.Getitem) -> str:
        key = node.arg
        if isinstance(key, nodes.Slice):
            parts = [self.text(part) if part is not None else "" for part in (key.start, key.stop, key.step)]
            return f"{self.chain(node.node)}[{':'.join(parts if parts[2] else parts[:2])}]"
        if isinstance(key, nodes.Const) and isinstance(key.value, str) and _is_plain(key.value):
            return f"{self.chain(node.node)}.{key.value}"
        return f"{self.chain(node.node)}[{self.text(key)}]"

    def _call(self, node: nodes.Call) -> str:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise unsupported("call with * or ** in chat templates")
        if isinstance(node.node, nodes.Getattr):
            return self._method(node, node.node)
        if not isinstance(node.node, nodes.Name):
            raise unsupported("call of a computed function in chat templates")
        name = node.node.name
        if name in self.scope.macros:
            return self._macro_call(node, self.scope.macros[name])
        if name not in FUNCTIONS or (name == "namespace" and node.args):
            raise unsupported(f"function {name} in chat templates")
        return f"{name}({self._arguments(node)})"

    def _arguments(self, node: nodes.Call) -> str:
        named = [f"{keyword.key}={self.text(keyword.value)}" for keyword in node.kwargs]
        return ", ".join([*map(self.text, node.args), *named])

    def _macro_call(self, node: nodes.Call, macro: nodes.Macro) -> str:
        """Every argument is given: the engine forgets defaults, and finds a missing one among the caller's names."""
        given = len(node.args)
        named = {keyword.key for keyword in node.kwargs}
        arguments = [part for part in [self._arguments(node)] if part]
        offset = len(macro.args) - len(macro.defaults)
        for index, argument in enumerate(macro.args):
            if index < given or argument.name in named:
                continue
            default = self.text(macro.defaults[index - offset]) if index >= offset else UNDEFINED
            arguments.append(f"{argument.name}={default}")
            self.scope.note("calls of macros give every argument")
        return f"{macro.name}({', '.join(arguments)})"

    def _method(self, node: nodes.Call, attribute: nodes.Getattr) -> str:
        name, arguments = attribute.attr, node.args
        if name in METHODS and METHODS[name][0] <= len(arguments) <= METHODS[name][1] and not node.kwargs:
            return f"{self.chain(attribute.node)}.{name}({', '.join(map(self.text, arguments))})"
        self.scope.note(f".{name}() is said with what the engine has")
        if name == "get" and 1 <= len(arguments) <= 2:
            default = self.text(arguments[1]) if len(arguments) == 2 else "none"
            item = nodes.Getitem(attribute.node, arguments[0], "load", lineno=node.lineno)
            text = self.text(item)
            return f"({text} if {text} is defined else {default})"
        if name in ("items", "upper", "lower", "capitalize") and not arguments:
            return f"({self.text(attribute.node)}|{name})"
        if name == "join" and len(arguments) == 1:
            return self._helper("_join", self.text(arguments[0]), self.text(attribute.node))
        raise unsupported(f"method .{name}() with {len(arguments)} arguments in chat templates")

    def _helper(self, name: str, *arguments: str) -> str:
        self.scope.helpers.add(name)
        return f"{name}({', '.join(arguments)})"

    def _filter(self, node: nodes.Filter) -> str:
        from pipeline.tokenizer.template.filters import filter_text

        return filter_text(self, node)

    def _test(self, node: nodes.Test) -> str:
        name = node.name
        if name in ("defined", "undefined") and isinstance(node.node, nodes.Getitem):
            self.scope.note("m['key'] is defined: the engine takes any key for defined, m.key it does not")
        value = self.text(node.node)
        if name in TESTS:
            return f"({value} is {name})"
        if name in TEST_COMPARISONS and len(node.args) == 1:
            self.scope.note(f"the test '{name}' is written as {TEST_COMPARISONS[name]}")
            return f"({value} {TEST_COMPARISONS[name]} {self.text(node.args[0])})"
        mapping = value + " is mapping" if self.is_known(node.node) else f"{value} is defined and {value} is mapping"
        if name == "mapping":
            if not self.is_known(node.node):
                self.scope.note("'is mapping' is asked of what is defined: to the engine, undefined is a mapping")
            return f"({mapping})"
        if name in ("iterable", "sequence"):
            self.scope.note(f"'is {name}' includes mappings")
            return f"({value} is iterable or ({mapping}))"
        raise unsupported(f"test 'is {name}' in chat templates")

    def is_known(self, node: nodes.Node) -> bool:
        """True if the value cannot be undefined."""
        if isinstance(node, nodes.Name):
            return node.name in self.scope.known or node.name in self.scope.constants
        if isinstance(node, nodes.Getattr):
            return isinstance(node.node, nodes.Name) and node.node.name == "loop"
        return not isinstance(node, nodes.Getitem | nodes.CondExpr)

    def _conditional(self, node: nodes.CondExpr) -> str:
        if node.expr2 is None:
            self.scope.note("an inline if without else gets one")
        otherwise = self.text(node.expr2) if node.expr2 is not None else UNDEFINED
        return f"({self.text(node.expr1)} if {self.condition(node.test)} else {otherwise})"

    def _and(self, node: nodes.And) -> str:
        if is_boolean(node):
            return self.condition(node)
        self.scope.note("'and' and 'or' give one of their values: written as inline ifs")
        return f"({self.text(node.right)} if {self.condition(node.left)} else {self.text(node.left)})"

    def _or(self, node: nodes.Or) -> str:
        if is_boolean(node):
            return self.condition(node)
        self.scope.note("'and' and 'or' give one of their values: written as inline ifs")
        return f"({self.text(node.left)} if {self.condition(node.left)} else {self.text(node.right)})"

    def _compare(self, node: nodes.Compare) -> str:
        links = []
        left = self.text(node.expr)
        for operand in node.ops:
            right = self.text(operand.expr)
            links.append(f"({left} {COMPARISONS[operand.op]} {right})")
            left = right
        if len(links) > 1:
            self.scope.note("chained comparisons are taken apart")
        return links[0] if len(links) == 1 else "(" + " and ".join(links) + ")"

    def _binary(self, operator: str, node: nodes.BinExpr) -> str:
        return f"({self.text(node.left)} {operator} {self.text(node.right)})"

    def _concat(self, node: nodes.Concat) -> str:
        return "(" + " ~ ".join(self._concat_part(part) for part in node.nodes) + ")"

    def _concat_part(self, node: nodes.Expr) -> str:
        text = self.text(node)
        if self.is_known(node):
            return text
        self.scope.note("~ with what may be undefined: to the engine, undefined has a text")
        return f"({text} if {text} is defined else '')"

    def _list(self, node: nodes.List | nodes.Tuple) -> str:
        return "[" + ", ".join(map(self.text, node.items)) + "]"

    def _dict(self, node: nodes.Dict) -> str:
        return "{" + ", ".join(f"{self.text(pair.key)}: {self.text(pair.value)}" for pair in node.items) + "}"


def _is_plain(key: str) -> bool:
    """True if `.key` means the same as `['key']` in both Jinjas."""
    return key.isidentifier() and key.isascii() and key not in DICT_METHODS and not key.startswith("_")


def is_boolean(node: nodes.Node) -> bool:
    """True if the value is a truth value, whatever the variables are."""
    if isinstance(node, nodes.And | nodes.Or):
        return is_boolean(node.left) and is_boolean(node.right)
    return isinstance(node, nodes.Compare | nodes.Test | nodes.Not) or (
        isinstance(node, nodes.Const) and isinstance(node.value, bool)
    )
