"""Macros, in Jinja that both engines read alike, for what the engine's Jinja lacks or does differently."""

from __future__ import annotations

JOIN = """\
{% macro _join(items, separator) %}{% for item in items %}\
{% if not loop.first %}{{ separator }}{% endif %}{{ item }}{% endfor %}{% endmacro %}"""

# The engine's own tojson sorts the keys of objects; json.dumps keeps their order.
JSON = """\
{% macro _json(x) %}{% if x is string %}{{ x|tojson }}\
{% elif x is mapping %}{{ '{' }}{% for pair in x|items %}{% if not loop.first %}{{ ', ' }}{% endif %}\
{{ pair[0]|tojson }}{{ ': ' }}{{ _json(pair[1]) }}{% endfor %}{{ '}' }}\
{% elif x is iterable %}{{ '[' }}{% for y in x %}{% if not loop.first %}{{ ', ' }}{% endif %}\
{{ _json(y) }}{% endfor %}{{ ']' }}\
{% else %}{{ x|tojson }}{% endif %}{% endmacro %}"""

JSON_INDENT = """\
{% macro _json_indent(x, newline, step) %}{% if x is string %}{{ x|tojson }}\
{% elif x is mapping %}{{ '{' }}{% for pair in x|items %}{% if not loop.first %}{{ ',' }}{% endif %}\
{{ newline ~ step }}{{ pair[0]|tojson }}{{ ': ' }}{{ _json_indent(pair[1], newline ~ step, step) }}{% endfor %}\
{% if x %}{{ newline }}{% endif %}{{ '}' }}\
{% elif x is iterable %}{{ '[' }}{% for y in x %}{% if not loop.first %}{{ ',' }}{% endif %}\
{{ newline ~ step }}{{ _json_indent(y, newline ~ step, step) }}{% endfor %}\
{% if x %}{{ newline }}{% endif %}{{ ']' }}\
{% else %}{{ x|tojson }}{% endif %}{% endmacro %}"""

MACROS = {"_join": JOIN, "_json": JSON, "_json_indent": JSON_INDENT}
