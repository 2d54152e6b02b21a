"""Filters of a template in the engine's dialect: an unknown filter passes its value through there, without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import nodes

from pipeline.tokenizer.definition import unsupported

if TYPE_CHECKING:
    from pipeline.tokenizer.template.expressions import Expressions

NATIVE = ("string", "upper", "lower", "capitalize", "items")
SELECTING = {"selectattr": True, "rejectattr": False, "select": True, "reject": False}


def filter_text(expressions: Expressions, node: nodes.Filter) -> str:
    """Raises StageFailed naming a filter (or an argument of one) that cannot be said."""
    assert node.node is not None
    name, arguments = node.name, node.args
    keywords: dict[str, nodes.Expr] = {str(keyword.key): keyword.value for keyword in node.kwargs}
    if name in NATIVE and not arguments and not keywords:
        return f"({expressions.text(node.node)}|{name})"
    if name in ("length", "count"):
        return _length(expressions, node.node, name)
    if name == "trim":
        return _trim(expressions, node.node, arguments)
    if name == "tojson":
        return _tojson(expressions, node.node, arguments, keywords)
    if name == "map" and list(keywords) == ["attribute"] and not arguments:
        return f"({expressions.text(node.node)}|map(attribute={expressions.text(keywords['attribute'])}))"
    return _rewritten(expressions, node.node, name, arguments, keywords)


def _length(expressions: Expressions, value: nodes.Expr, name: str) -> str:
    text = expressions.text(value)
    if name == "count" or not expressions.is_known(value):
        expressions.scope.note("|length of what may be undefined: to the engine, undefined has a length")
        return f"({text}|length if {text} is defined else 0)"
    return f"({text}|length)"


def _trim(expressions: Expressions, value: nodes.Expr, arguments: list[nodes.Expr]) -> str:
    if not arguments:
        return f"({expressions.text(value)}|trim)"
    expressions.scope.note("|trim(…) is written as .strip(…)")
    return f"{expressions.chain(value)}.strip({expressions.text(arguments[0])})"


def _tojson(
    expressions: Expressions, value: nodes.Expr, arguments: list[nodes.Expr], keywords: dict[str, nodes.Expr]
) -> str:
    unknown = set(keywords) - {"indent", "ensure_ascii"}
    ascii_only = keywords.get("ensure_ascii")
    if unknown or arguments or (ascii_only is not None and getattr(ascii_only, "value", True) is not False):
        raise unsupported(f"tojson({', '.join(sorted(keywords))}) in chat templates")
    expressions.scope.note("|tojson is a macro that keeps the order of keys, which the engine's sorts")
    text = expressions.text(value)
    if "indent" not in keywords:
        expressions.scope.helpers.add("_json")
        return f"_json({text})"
    indent = keywords["indent"]
    if not isinstance(indent, nodes.Const) or not isinstance(indent.value, int):
        raise unsupported("tojson with a computed indent in chat templates")
    expressions.scope.helpers.add("_json_indent")
    return f"_json_indent({text}, '\\n', '{' ' * indent.value}')"


def _rewritten(
    expressions: Expressions, value: nodes.Expr, name: str, arguments: list[nodes.Expr], keywords: dict[str, nodes.Expr]
) -> str:
    expressions.scope.note(f"the filter '{name}' is said with what the engine has")
    if name in ("default", "d"):
        return _default(expressions, value, arguments, keywords)
    if name in SELECTING:
        return _select(expressions, value, name, arguments)
    if keywords:
        raise unsupported(f"filter '{name}' with named arguments in chat templates")
    if name in ("first", "last"):
        return f"{expressions.chain(value)}[{0 if name == 'first' else -1}]"
    if name == "reverse":
        return f"{expressions.chain(value)}[::-1]"
    if name in ("list", "safe"):
        return expressions.text(value)
    if name == "replace" and len(arguments) == 2:
        return f"{expressions.chain(value)}.replace({', '.join(map(expressions.text, arguments))})"
    if name == "join" and len(arguments) <= 1:
        expressions.scope.helpers.add("_join")
        separator = expressions.text(arguments[0]) if arguments else "''"
        return f"_join({expressions.text(value)}, {separator})"
    raise unsupported(f"filter '{name}' in chat templates")


def _default(
    expressions: Expressions, value: nodes.Expr, arguments: list[nodes.Expr], keywords: dict[str, nodes.Expr]
) -> str:
    text = expressions.text(value)
    fallback = expressions.text(arguments[0]) if arguments else "''"
    by_truth = arguments[1] if len(arguments) > 1 else keywords.get("boolean")
    asks_truth = isinstance(by_truth, nodes.Const) and bool(by_truth.value)
    return f"({text} if {text if asks_truth else f'({text} is defined)'} else {fallback})"


def _select(expressions: Expressions, value: nodes.Expr, name: str, arguments: list[nodes.Expr]) -> str:
    """A loop before the current statement that collects the items."""
    items, found, item = expressions.text(value), expressions.scope.fresh("n"), expressions.scope.fresh("i")
    subject: nodes.Expr = nodes.Name(item, "load", lineno=value.lineno)
    if name.endswith("attr"):
        attribute = arguments.pop(0)
        if not isinstance(attribute, nodes.Const):
            raise unsupported(f"filter '{name}' with a computed attribute in chat templates")
        for part in str(attribute.value).split("."):
            subject = nodes.Getattr(subject, part, "load", lineno=value.lineno)
    condition = expressions.condition(subject)
    if arguments:
        test = arguments[0]
        if not isinstance(test, nodes.Const):
            raise unsupported(f"filter '{name}' with a computed test in chat templates")
        tested = nodes.Test(subject, test.value, arguments[1:], [], None, None, lineno=value.lineno)
        condition = expressions.text(tested)
    wanted = condition if SELECTING[name] else f"(not {condition})"
    expressions.scope.pending.append(
        f"{{% set {found} = namespace(found=[]) %}}{{% for {item} in {items} %}}{{% if {wanted} %}}"
        f"{{% set {found}.found = ({found}.found + [{item}]) %}}{{% endif %}}{{% endfor %}}"
    )
    return f"{found}.found"
