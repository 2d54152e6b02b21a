"""Statements of a template in the engine's dialect. All text is written as literals: no blank depends on trimming."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import nodes

from pipeline.tokenizer.definition import unsupported
from pipeline.tokenizer.template.expressions import Expressions, Scope, is_boolean, literal


class Statements:
    """`block(nodes)` is the statements' text. sink: the namespace variable that collects the text of a `set` block."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.expressions, self.sink = scope, Expressions(scope), ""

    def block(self, body: Sequence[nodes.Node]) -> str:
        """Statements in order, each preceded by what its expressions need set."""
        return "".join(self._statement(node) for node in body)

    def _statement(self, node: nodes.Node) -> str:
        outer, self.scope.pending = self.scope.pending, []
        text = self._written(node)
        before, self.scope.pending = self.scope.pending, outer
        return "".join(before) + text

    def _written(self, node: nodes.Node) -> str:
        match node:
            case nodes.Output():
                return "".join(self._print(item) for item in node.nodes)
            case nodes.If():
                return self._if(node.test, node.body, [*node.elif_], node.else_)
            case nodes.For():
                return self._for(node)
            case nodes.Assign():
                return self._assign(node)
            case nodes.AssignBlock():
                return self._assign_block(node)
            case nodes.Macro():
                return self._macro(node)
        raise unsupported(f"template statement {type(node).__name__} (line {node.lineno} of the chat template)")

    def _print(self, item: nodes.Expr) -> str:
        if isinstance(item, nodes.CondExpr) and item.expr2 is None:
            self.scope.note("an inline if without else gets one")
            item = nodes.CondExpr(item.test, item.expr1, nodes.Const(""), lineno=item.lineno)
        text = literal(item.data) if isinstance(item, nodes.TemplateData) else self.expressions.text(item)
        if isinstance(item, nodes.Expr) and is_boolean(item):
            self.scope.note("truth values are printed as True and False")
            text = f"({text}|string)"
        if not self.sink:
            return f"{{{{ {text} }}}}"
        kept = text if self.expressions.is_known(item) else f"({text} if {text} is defined else '')"
        return f"{{% set {self.sink}.text = ({self.sink}.text ~ {kept}) %}}"

    def _if(
        self, test: nodes.Node, body: Sequence[nodes.Node], branches: list[nodes.If], otherwise: Sequence[nodes.Node]
    ) -> str:
        condition = self.expressions.condition(test)
        text = f"{{% if {condition} %}}{self.block(body)}"
        if branches:
            first, *rest = branches
            outer, self.scope.pending = self.scope.pending, []
            nested = self._if(first.test, first.body, rest, otherwise)
            before, self.scope.pending = self.scope.pending, outer
            return f"{text}{{% else %}}{''.join(before)}{nested}{{% endif %}}"
        return text + (f"{{% else %}}{self.block(otherwise)}" if otherwise else "") + "{% endif %}"

    def _for(self, node: nodes.For) -> str:
        if node.recursive:
            raise unsupported("recursive loop in chat templates")
        target, iterable = self._loop_head(node)
        items = ""
        if node.else_ or self._looks_around(node):
            if node.test is not None:
                raise unsupported("filtered loop with else, nextitem or previtem in chat templates")
            items = self.scope.fresh("l")
            self.scope.pending.append(f"{{% set {items} = {iterable} %}}")
            iterable = items
        self.scope.loops.append(items)
        filtered = self._loop_filter(node)
        body = self.block(node.body)
        self.scope.loops.pop()
        text = f"{{% for {target} in {iterable}{filtered} %}}{body}{{% endfor %}}"
        if node.else_:
            self.scope.note("the else of a loop is an if of its own")
            text += f"{{% if not {items} %}}{self.block(node.else_)}{{% endif %}}"
        return text

    def _loop_filter(self, node: nodes.For) -> str:
        if node.test is None:
            return ""
        before = len(self.scope.pending)
        text = f" if {self.expressions.condition(node.test)}"
        if len(self.scope.pending) > before:
            raise unsupported("loop filter with computed parts in chat templates")
        return text

    def _loop_head(self, node: nodes.For) -> tuple[str, str]:
        """Loop variables and iterable; `.keys()` and `.values()` become halves of the items."""
        targets = node.target.items if isinstance(node.target, nodes.Tuple) else [node.target]
        names = [str(target.name) for target in targets if isinstance(target, nodes.Name)]
        if len(names) != len(targets):
            raise unsupported("nested loop variables in chat templates")
        self.scope.known.update(names)
        iterable = node.iter
        if (
            isinstance(iterable, nodes.Call)
            and isinstance(iterable.node, nodes.Getattr)
            and iterable.node.attr in ("keys", "values")
            and not iterable.args
        ):
            self.scope.note(f".{iterable.node.attr}() is taken from the items")
            spare = self.scope.fresh("k")
            pair = [*names, spare] if iterable.node.attr == "keys" else [spare, *names]
            return ", ".join(pair), f"({self.expressions.text(iterable.node.node)}|items)"
        return ", ".join(names), self.expressions.text(iterable)

    def _looks_around(self, node: nodes.For) -> bool:
        return any(
            isinstance(attribute.node, nodes.Name)
            and attribute.node.name == "loop"
            and attribute.attr in ("nextitem", "previtem")
            for child in node.body
            for attribute in child.find_all(nodes.Getattr)
        )

    def _assign(self, node: nodes.Assign) -> str:
        value = self.expressions.text(node.node)
        if isinstance(node.target, nodes.Tuple):
            return self._unpack(node.target, value)
        return f"{{% set {self._target(node.target)} = {value} %}}"

    def _unpack(self, target: nodes.Tuple, value: str) -> str:
        name = self.scope.fresh("v")
        self.scope.note("a set of several names is taken apart")
        parts = [f"{{% set {self._target(item)} = {name}[{index}] %}}" for index, item in enumerate(target.items)]
        return f"{{% set {name} = {value} %}}" + "".join(parts)

    def _target(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.NSRef):
            return f"{node.name}.{node.attr}"
        if isinstance(node, nodes.Name):
            self.scope.known.add(node.name)
            return str(node.name)
        raise unsupported("nested assignment in chat templates")

    def _assign_block(self, node: nodes.AssignBlock) -> str:
        self.scope.note("{% set %} blocks collect their text in a namespace")
        outer, self.sink = self.sink, self.scope.fresh("b")
        sink = self.sink
        body = self.block(node.body)
        self.sink = outer
        value = f"{sink}.text"
        if node.filter is not None:
            inner = nodes.Getattr(nodes.Name(sink, "load", lineno=node.lineno), "text", "load", lineno=node.lineno)
            node.filter.node = inner
            value = self.expressions.text(node.filter)
        return f"{{% set {sink} = namespace(text='') %}}{body}{{% set {self._target(node.target)} = {value} %}}"

    def _macro(self, node: nodes.Macro) -> str:
        self.scope.macros[node.name] = node
        names = [argument.name for argument in node.args]
        outer, self.sink = self.sink, ""
        body = self.block(node.body)
        self.sink = outer
        return f"{{% macro {node.name}({', '.join(names)}) %}}{body}{{% endmacro %}}"
