"""The Jinja that Hugging Face renders chat templates with: sandboxed, trim_blocks, lstrip_blocks, loop controls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import StageFailed

Variables = Mapping[str, Any]


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model is trained on; rendering ignores it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def parse(template: str) -> nodes.Template:
    """The syntax tree. Raises StageFailed with the line for a template that is no Jinja."""
    try:
        return _environment().parse(template)
    except TemplateSyntaxError as error:
        raise StageFailed(f"the chat template is not valid Jinja (line {error.lineno}): {error.message}") from error


def reference_render(template: str, messages: Sequence[Variables], variables: Variables) -> str | None:
    """What transformers' apply_chat_template renders; None where the template itself refuses the conversation."""
    try:
        return str(_environment().from_string(template).render(messages=messages, **variables))
    except TemplateSyntaxError as error:
        raise StageFailed(f"the chat template is not valid Jinja (line {error.lineno}): {error.message}") from error
    except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return None


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
