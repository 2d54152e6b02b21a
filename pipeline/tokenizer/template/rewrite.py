"""A chat template as the engine must get it to render what Hugging Face renders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.tokenizer.template.environment import parse
from pipeline.tokenizer.template.expressions import Scope
from pipeline.tokenizer.template.macros import MACROS
from pipeline.tokenizer.template.prune import prune
from pipeline.tokenizer.template.statements import Statements

# What the engine's lexer reads differently, though the syntax tree is the same.
LEXICAL = {
    "comments leave their newline in the engine": re.compile(r"\{#"),
    "a final newline of the file is not part of the template": re.compile(r"\n\Z"),
    "True, False and None are undefined names to the engine": re.compile(r"\b(?:True|False|None)\b"),
    "{%+ and {{+ are not known to the engine": re.compile(r"\{[%{]\+|\+[%}]\}"),
    "raw blocks are not known to the engine": re.compile(r"\{%-?\s*(?:raw|generation|filter)\b"),
}


@dataclass(frozen=True)
class EngineTemplate:
    """text: what the engine gets. rewrites: why it is not the model's own text, one line each (empty if it is)."""

    text: str
    rewrites: tuple[str, ...] = ()


def for_engine(template: str, constants: Mapping[str, str] | None = None) -> EngineTemplate:
    """The template itself if the engine reads it as Jinja does, else an equal one in the engine's dialect.

    constants: variables whose text is known now, except bos_token and eos_token, which the engine passes itself.
    Raises StageFailed naming a construct that the engine has no counterpart for.
    """
    tree = parse(template)
    scope = Scope(constants=dict(constants or {}))
    body = prune(tree.body, scope.notes)
    text = Statements(scope).block(body)
    for reason, pattern in LEXICAL.items():
        if pattern.search(template):
            scope.note(reason)
    if not scope.notes:
        return EngineTemplate(template)
    macros = "".join(MACROS[name] for name in sorted(scope.helpers))
    return EngineTemplate(macros + text, tuple(scope.notes))
