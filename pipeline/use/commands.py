"""The commands of `chat`: one function each, found by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError, UserError, nearest
from pipeline.use.session import speeds
from pipeline.use.settings import SAMPLER_KEYS, overrides

if TYPE_CHECKING:
    from pipeline.use.chat import Chat


def execute(chat: Chat, line: str) -> bool:
    """Carries out "/name rest"; False when it is /exit. Raises UserError for an unknown command."""
    name, _, rest = line[1:].partition(" ")
    if name in ("exit", "quit"):
        return False
    if name not in COMMANDS:
        known = ", ".join(f"/{known}" for known in (*COMMANDS, "exit"))
        raise UserError(f"there is no /{name}.{nearest(name, [*COMMANDS, 'exit'])}", f"known: {known}")
    COMMANDS[name](chat, rest.strip())
    return True


def _help(chat: Chat, _: str) -> None:
    """this list"""
    for name, command in COMMANDS.items():
        chat.note(f"/{name:7} {command.__doc__}")
    chat.note("/exit    leave (or Ctrl-D)")


def _reset(chat: Chat, _: str) -> None:
    """forget the conversation (the system message stays)"""
    chat.messages = [message for message in chat.messages if message["role"] == "system"]
    chat.note("The conversation starts afresh.")


def _system(chat: Chat, text: str) -> None:
    """/system TEXT: start afresh with this system message; without TEXT: none"""
    chat.system(text)
    chat.note(f"System message: {text or '(none)'}")


def _set(chat: Chat, text: str) -> None:
    """/set KEY=VALUE …: change keys of config.json for this session; without: show this session's"""
    if not text:
        chat.note(json.dumps(chat.keys, ensure_ascii=False))
        return
    changes = overrides([text] if "=" in text and text.count("=") == 1 else text.split())
    before = dict(chat.keys)
    chat.keys.update(changes)
    try:
        _apply(chat, set(changes))
    except PipelineError:
        chat.keys = before
        _apply(chat, set(changes))
        raise


def _apply(chat: Chat, names: set[str]) -> None:
    if names <= SAMPLER_KEYS:
        chat.resample()
        chat.note("The sampler is changed.")
    else:
        chat.restart()
        chat.note("The engine is loaded again with the changed keys.")


def _lora(chat: Chat, name: str) -> None:
    """/lora NAME: answer with a split LoRA of the product; /lora off: without; /lora free NAME: forget it"""
    word, _, rest = name.partition(" ")
    if word == "free" and rest:
        chat.engine.release(_adapter_file(chat, rest))
    elif name:
        chat.engine.select("" if name == "off" else _adapter_file(chat, name))
    if chat.arguments.adapter != chat.engine.adapter:
        chat.session.cached = []  # each adapter has a cache of its own
        chat.arguments.adapter = chat.engine.adapter
    beside = ", ".join(sorted(chat.engine.product.manifest.get("adapters") or ()))
    chat.note(f"Adapter: {chat.engine.adapter or '(none)'}" + (f"; the product has {beside}" if beside else ""))


def _adapter_file(chat: Chat, name: str) -> str:
    """An adapter may be called by its name in the manifest, or by its file."""
    return f"{name}.mnn" if name in (chat.engine.product.manifest.get("adapters") or ()) else name


def _stats(chat: Chat, _: str) -> None:
    """speeds of the last answer, tokens in the cache, memory, load time"""
    chat.note(speeds(chat.last))
    megabytes = chat.engine.peak_memory() / 1e6
    chat.note(
        f"{len(chat.session.cached)} tokens cached · {len(chat.messages)} messages · "
        f"peak memory {megabytes:.0f} MB · loaded in {chat.engine.stats['load']:.2f} s"
    )


def _save(chat: Chat, name: str) -> None:
    """/save FILE: write the conversation as JSON"""
    if not name:
        raise UserError("/save needs a file", "type /save conversation.json")
    try:
        Path(name).write_text(json.dumps({"messages": chat.messages}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{name} cannot be written: {error.strerror}") from None
    chat.note(f"{len(chat.messages)} messages written to {name}")


COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "help": _help,
    "reset": _reset,
    "system": _system,
    "set": _set,
    "lora": _lora,
    "stats": _stats,
    "save": _save,
}
