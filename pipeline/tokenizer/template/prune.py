"""Drops `raise_exception`: the engine's Jinja cannot refuse a conversation, it prints nothing there.

The checks around it often use arithmetic that the engine does not have (`loop.index0 % 2`), and have no other effect.
"""

from __future__ import annotations

from jinja2 import nodes

ARITHMETIC = (nodes.Mod, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Pow)


def prune(body: list[nodes.Node], notes: list[str]) -> list[nodes.Node]:
    """`body` without calls of raise_exception and without the ifs that hold nothing else.

    A line is added to `notes` when a dropped condition is one that the engine would misread.
    """
    return [kept for node in body for kept in _kept(node, notes)]


def _kept(node: nodes.Node, notes: list[str]) -> list[nodes.Node]:
    if isinstance(node, nodes.Output):
        items = [item for item in node.nodes if not _raises(item)]
        return [nodes.Output(items, lineno=node.lineno)] if items else []
    if isinstance(node, nodes.If):
        return _kept_if(node, notes)
    if isinstance(node, nodes.For):
        node.body, node.else_ = prune(node.body, notes), prune(node.else_, notes)
    if isinstance(node, nodes.Macro | nodes.AssignBlock):
        node.body = prune(node.body, notes)
    return [node]


def _kept_if(node: nodes.If, notes: list[str]) -> list[nodes.Node]:
    refuses = any(_raises(call) for call in node.find_all(nodes.Call))
    node.body, node.else_ = prune(node.body, notes), prune(node.else_, notes)
    branches = [branch for branch in node.elif_ if isinstance(branch, nodes.If)]
    for branch in branches:
        branch.body = prune(branch.body, notes)
    if refuses and _silent(node.body) and _silent(node.else_) and all(_silent(branch.body) for branch in branches):
        if any(
            next(test.find_all(ARITHMETIC), None) or isinstance(test, ARITHMETIC)
            for test in (node.test, *(branch.test for branch in branches))
        ):
            notes.append("checks that end in raise_exception are left out: the engine has no such arithmetic")
        return []
    return [node]


def _raises(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"


def _silent(body: list[nodes.Node]) -> bool:
    """True for a body that prints blanks at most and sets nothing."""
    return all(
        isinstance(node, nodes.Output)
        and all(isinstance(item, nodes.TemplateData) and not item.data.strip() for item in node.nodes)
        for node in body
    )
