"""Chat templates on the engine: each construct that its Jinja lacks, and the rewrite that says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StageFailed
from pipeline.tokenizer.definition import Definition
from pipeline.tokenizer.engine import EngineTokenizer, Render
from pipeline.tokenizer.mtok import Extras, encode_mtok
from pipeline.tokenizer.parity.conversations import CONVERSATIONS, TOOL_TURNS, TOOLS
from pipeline.tokenizer.template import for_engine, reference_render

MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "What? 'Ünïcode' \"q\" \\n"},
    {"role": "assistant", "content": "<think>a</think>b", "extra": None, "tags": ["x", "y"], "n": 3},
    {"role": "user", "content": ""},
)
VARIABLES: dict[str, Any] = {
    "flag": False,
    "tools": [{"name": "f", "b": 1, "a": {"z": [1, 2.5, None, True], "y": 'é"\n'}}],
    "empty": [],
    "table": {"k2": "v2", "k1": "v1"},
}
# Constructs that the engine reads as Jinja does: the template must reach it untouched.
NATIVE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m.content|trim }}\n{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages[::-1] %}{{ m.role }}{% if loop.last %}.{% endif %}{% endfor %}",
    "{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}",
    "{% if flag is defined and not flag %}off{% elif flag %}on{% else %}none{% endif %}",
    "{%- for m in messages -%}\n  {{- m.role }}  \n{%- endfor %}  x",
    "{% macro say(x) %}[{{ x }}]{% endmacro %}{{ say('a') + say(messages[1].role) }}",
    "{{ 'a' if messages|length > 3 else 'b' }}",
    "{% if messages[0].role in ['system', 'developer'] %}S{% endif %}",
)
REWRITTEN = (
    "{% if True %}a{% endif %}{% if not False %}b{% endif %}{% if messages[2].extra == None %}c{% endif %}",
    "{{ nothing or 'x' }}{{ messages[1].role or 'y' }}{{ 'a' and 'b' }}{{ empty or messages[0].role }}",
    "{{ nothing|default('d') }}{{ messages[1].role|default('d') }}{{ flag|default('d', true) }}"
    "{{ ''|d('e', boolean=True) }}",
    "{% if messages[0]['nope'] is defined %}wrong{% else %}right{% endif %}"
    "{% if messages[0].x is not defined %}!{% endif %}",
    "{{ messages[2].tags|join(', ') }}{{ ', '.join(messages[2].tags) }}{{ messages[2].tags|join }}",
    "{{ messages[2].tags|first }}{{ messages[2].tags|last }}{{ (messages|first).role }}"
    "{{ messages[2].tags|list|length }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{% for m in messages|rejectattr('role', 'eq', 'user') %}{{ m.role }}{% endfor %}",
    "{{ (messages|selectattr('extra', 'defined')|first).content }}{{ messages|selectattr('tags')|list|length }}",
    "{{ tools|tojson }}{{ tools[0]|tojson(indent=2) }}{{ empty|tojson(indent=4) }}{{ {'b': 1, 'a': [true]}|tojson }}",
    "{% for k, v in table.items() %}{{ k }}={{ v }};{% endfor %}{% for k in table.keys() %}{{ k }}{% endfor %}"
    "{% for v in table.values() %}{{ v }}{% endfor %}",
    "{{ table.get('k1') }}{{ table.get('k9', 'd') }}{{ messages[1].get('role') }}",
    "{% set x %}a{{ messages[1].role }}{% for t in messages[2].tags %}{{ t }}{% endfor %}{% endset %}[{{ x }}]",
    "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% for x in empty %}{{ x }}{% else %}none{% endfor %}{% for x in messages %}{{ x.role }}{% else %}no{% endfor %}",
    "{% macro f(a, b='B', c=none) %}{{ a }}{{ b }}{{ c is none }}{% endmacro %}{% set b = 'outer' %}"
    "{{ f('1')|lower }}{{ f('1', c='x')|lower }}",
    "{% for m in messages %}{% if loop.nextitem is defined %}{{ loop.nextitem.role }}{% endif %}"
    "{% if loop.previtem %}{{ loop.previtem.role }}{% endif %}{{ loop.revindex }}{{ loop.revindex0 }}{% endfor %}",
    "{% set a, b = ['x', 'y'] %}{{ a }}{{ b }}",
    "{{ 'x' if flag }}{{ 'a' ~ nothing ~ 'b' }}{{ nothing|length }}",
    "{% if 1 < 2 < 3 and not 3 < 2 < 1 %}chain{% endif %}",
    "{% if table is mapping and nothing is not mapping and table is iterable %}maps{% endif %}",
    "{# a comment #}\n{{ 'after' }}\n",
    "{% if messages|length % 2 == 1 %}{{ raise_exception('odd') }}{% endif %}ok",
    "{{ messages[1].role.upper() }}{{ 'ABC'.lower() }}{{ 1 == 1 }}{{ flag is true }}"
    "{{ (messages[1].role ~ 'x').replace('u', 'U') }}",
    "{{ messages[0].content|replace('B', 'C')|trim }}{{ '--x-'|trim('-') }}{{ ('a,b'|string).split(',')[1] }}",
    "{% generation %}g{% endgeneration %}{{ 'raw {{ }}' }}",
    "{%- if messages[0]['content'] is string -%}s{%- else -%}l{%- endif -%}\n{{ pad_token }}\n",
    "{{ messages|map(attribute='role')|join('/') }}",
)
REFUSED = (
    ("{% for m in messages %}{{ loop.index % 2 }}{% endfor %}", "Mod"),
    ("{% for m in messages %}{% break %}{% endfor %}", "Break"),
    ("{{ messages|groupby('role') }}", "filter 'groupby'"),
    ("{{ messages[0].content.title() }}", r"method .title\(\)"),
    ("{% if 3 is odd %}{% endif %}", "is odd"),
    ("{{ lipsum() }}", "function lipsum"),
    ("{% include 'x' %}", "Include"),
    ("{% for x in messages recursive %}{% endfor %}", "recursive"),
    ("{{ messages.__class__", "not valid Jinja"),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineTokenizer:
    """Any tokenizer will do: templates are given by each call."""
    file: Path = tmp_path_factory.mktemp("template") / "tokenizer.mtok"
    document = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    file.write_bytes(encode_mtok(Definition.of(document), Extras(bos="<s>", eos="</s>")))
    return EngineTokenizer(file, timeout=30)


def _rendered(engine: EngineTokenizer, templates: tuple[str, ...]) -> list[str]:
    return engine.render([Render(MESSAGES, VARIABLES, text) for text in templates], "</s>")


def _reference(template: str) -> str | None:
    variables = {**VARIABLES, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    return reference_render(template, MESSAGES, {**variables, "pad_token": "<pad>"})


def test_what_the_engine_reads_reaches_it_untouched(engine: EngineTokenizer) -> None:
    assert [for_engine(text).text for text in NATIVE] == list(NATIVE)
    assert _rendered(engine, NATIVE) == [_reference(text) for text in NATIVE]


def test_rewrites_render_equally(engine: EngineTokenizer) -> None:
    rewritten = [for_engine(text, {"pad_token": "<pad>"}) for text in REWRITTEN]
    assert [text for text, result in zip(REWRITTEN, rewritten, strict=True) if not result.rewrites] == []
    answers = _rendered(engine, tuple(result.text for result in rewritten))
    expected = [_reference(text) for text in REWRITTEN]
    assert [case for case in zip(REWRITTEN, expected, answers, strict=True) if case[1] != case[2]] == []


def test_rewrites_are_jinja_too() -> None:
    for text in REWRITTEN:
        assert _reference(for_engine(text, {"pad_token": "<pad>"}).text) == _reference(text), text


@pytest.mark.parametrize(("template", "named"), REFUSED)
def test_what_cannot_be_said_is_refused_by_name(template: str, named: str) -> None:
    with pytest.raises(StageFailed, match=named):
        for_engine(template)


def test_rewriting_is_deterministic() -> None:
    for text in REWRITTEN:
        assert for_engine(text) == for_engine(text)


def test_the_sandbox_holds() -> None:
    """A template is untrusted: no way from a string to Python's classes."""
    assert reference_render("{{ ''.__class__.__mro__[1].__subclasses__() }}", MESSAGES, {}) is None


def test_key_order_of_tools_is_kept(engine: EngineTokenizer) -> None:
    text = (
        "{% for tool in tools %}{{ tool|tojson }}{% endfor %}{{ messages[1].tool_calls[0].function.arguments|tojson }}"
    )
    call = Render(TOOL_TURNS, TOOLS, for_engine(text).text)
    raw = Render(TOOL_TURNS, TOOLS, text)
    rewritten, own = engine.render([call, raw])
    assert rewritten == reference_render(text, TOOL_TURNS, TOOLS)
    assert own != rewritten  # the engine's own tojson sorts keys: the reason for the rewrite


def test_conversations_cover_what_the_proof_promises() -> None:
    assert len(CONVERSATIONS) >= 30 and len({one.name for one in CONVERSATIONS}) == len(CONVERSATIONS)
    roles = {message["role"] for one in CONVERSATIONS for message in one.messages}
    assert roles == {"system", "user", "assistant", "tool"}
    assert {one.add_generation_prompt for one in CONVERSATIONS} == {True, False}
    assert {one.variables.get("enable_thinking") for one in CONVERSATIONS} == {None, True, False}
