"""Conversations that every chat template is rendered with: what people and tools send, and what breaks templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """messages as transformers takes them; variables: tools, enable_thinking, …, passed beside them."""

    name: str
    messages: tuple[Message, ...]
    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a city, "today" only – 天気.',
        "parameters": {
            "type": "object",
            "properties": {
                "zone": {"type": "string", "description": "A time zone"},
                "city": {"type": "string", "enum": ["Paris", "東京"]},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "type": "function",
    "id": "call0001",
    "function": {"name": "get_weather", "arguments": {"zone": "CET", "city": "Paris"}},
}
TEXT_CALL = {
    "type": "function",
    "id": "call0001",
    "function": {"name": "get_weather", "arguments": '{"zone": "CET", "city": "Paris"}'},
}
LONG = "The quick brown fox jumps over the lazy dog. " * 40
CODE = "def f(x):\n    if x < 0:\n        return {'a': [1, 2]}\n\treturn \"ok\"\n"


def _say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _user(content: str) -> tuple[Message, ...]:
    return (_say("user", content),)


def _turns(count: int) -> tuple[Message, ...]:
    return tuple(_say("user" if index % 2 == 0 else "assistant", f"turn {index}") for index in range(count))


QUESTION = _user("What is the capital of France?")
SYSTEM = (_say("system", "You are terse."),)
ANSWERED = (*QUESTION, _say("assistant", "Paris."))
THOUGHT = (*QUESTION, _say("assistant", "<think>\nFrance, so…\n</think>\n\nParis."), *_user("And of Spain?"))
TOOL_TURNS: tuple[Message, ...] = (
    *_user("Weather in Paris?"),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call0001", "content": '{"degrees": 21.5}'},
)
TEXT_TOOL_TURNS = (
    TOOL_TURNS[0],
    {"role": "assistant", "content": "Let me look.", "tool_calls": [TEXT_CALL]},
    TOOL_TURNS[2],
)
TOOLS = {"tools": [WEATHER, CLOCK]}

PLAIN: tuple[Conversation, ...] = tuple(
    Conversation(name, messages)
    for name, messages in (
        ("one question", QUESTION),
        ("system and question", (*SYSTEM, *QUESTION)),
        ("two turns", (*ANSWERED, *_user("Thanks!"))),
        ("system and two turns", (*SYSTEM, *ANSWERED, *_user("Thanks!"))),
        ("seven turns", _turns(7)),
        ("nineteen turns", _turns(19)),
        ("empty question", _user("")),
        ("blank question", _user(" \n ")),
        ("empty system", (_say("system", ""), *QUESTION)),
        ("blanks around", _user("  two blanks before, a newline after\n")),
        ("empty answer", (*QUESTION, _say("assistant", ""), *_user("Hello?"))),
        ("template-like", _user("{{ messages }} {% if x %} {# no #} <|im_end|> </s> <end_of_turn>")),
        ("quotes", _user("'single' \"double\" \\ backslash \\n `tick`")),
        ("code", _user(CODE)),
        ("long", _user(LONG)),
        ("Chinese", _user("法国的首都是哪里？")),
        ("Arabic", _user("ما هي عاصمة فرنسا؟")),
        ("Hindi", _user("फ्रांस की राजधानी क्या है?")),
        ("emoji", _user("👨‍👩‍👧‍👦 👍🏽 🇫🇷")),
        ("combining", _user("e\u0301 ｆｕｌｌ ﬁ")),
        ("markdown", _user("# T\n\n- a\n- b\n\n```c\nx;\n```")),
        ("thoughts in the history", THOUGHT),
        ("half a thought", (*QUESTION, _say("assistant", "no</think>yes"), *_user("?"))),
        ("tags of tools", _user("<tool_response>not one</tool_response>")),
        ("image-like", _user("<image> [INST] [/INST] <<SYS>>")),
        ("two questions", (*QUESTION, *QUESTION)),
        ("system last", (*QUESTION, *SYSTEM)),
    )
)
CONVERSATIONS: tuple[Conversation, ...] = (
    *PLAIN,
    Conversation("no prompt for an answer", ANSWERED, add_generation_prompt=False),
    Conversation("system, no prompt", (*SYSTEM, *QUESTION), add_generation_prompt=False),
    Conversation("thoughts, no prompt", THOUGHT, add_generation_prompt=False),
    Conversation("thinking off", QUESTION, {"enable_thinking": False}),
    Conversation("thinking on", QUESTION, {"enable_thinking": True}),
    Conversation("thinking off, later", THOUGHT, {"enable_thinking": False}),
    Conversation("tools offered", QUESTION, TOOLS),
    Conversation("tools and system", (*SYSTEM, *QUESTION), TOOLS),
    Conversation("no tools", QUESTION, {"tools": []}),
    Conversation("tool called", TOOL_TURNS, TOOLS),
    Conversation("tool called, words and JSON text", TEXT_TOOL_TURNS, TOOLS),
    Conversation("tool called and answered", (*TOOL_TURNS, _say("assistant", "21.5 °C."), *_user("Thanks")), TOOLS),
    Conversation("two tool results", (*TOOL_TURNS, TOOL_TURNS[2]), TOOLS),
    Conversation("tool called, none offered", TOOL_TURNS),
    Conversation(
        "reasoning apart",
        (*QUESTION, {"role": "assistant", "content": "Paris.", "reasoning_content": "Easy."}, *_user("Sure?")),
    ),
    Conversation(
        "reasoning apart, last",
        (*QUESTION, {"role": "assistant", "content": "Paris.", "reasoning_content": "Easy."}),
        add_generation_prompt=False,
    ),
)
