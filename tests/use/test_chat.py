"""The conversation in the terminal, through the real command and as an object."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import PipelineError, UserError
from pipeline.mnn.runner import Engine
from pipeline.use import commands
from pipeline.use.chat import Chat, _parse

COMMAND = [sys.executable, "-m", "pipeline", "chat"]


@pytest.fixture
def chat(product: Path) -> Iterator[Chat]:
    running = Chat(_parse([str(product), "--greedy", "--max-new-tokens", "6"]), io.StringIO(), io.StringIO())
    yield running
    running.close()


def _out(chat: Chat) -> str:
    assert isinstance(chat.out, io.StringIO)
    return chat.out.getvalue()


def _notes(chat: Chat) -> str:
    assert isinstance(chat.notes, io.StringIO)
    return chat.notes.getvalue()


def test_turns_are_answers_to_the_whole_conversation(chat: Chat, product: Path) -> None:
    chat.say("Hi")
    chat.say("More")
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "user", "assistant"]
    with Engine(product) as engine:
        ids = engine.tokenize(engine.apply_template(chat.messages[:3]))
        expected = engine.generate(ids, 6)
    assert chat.last.ids == expected


def test_the_second_turn_computes_only_itself(chat: Chat) -> None:
    chat.say("Hi there, how are you?")
    chat.say("More")
    assert chat.last.cached > 20
    assert "cached" in _notes(chat)


def test_speeds_are_told_after_each_answer(chat: Chat) -> None:
    chat.say("Hi")
    assert "prefill" in _notes(chat)
    assert "decode 6 tokens" in _notes(chat)


@pytest.mark.parametrize("name", ["", "config.json", "llm.mnn"])
def test_a_product_is_a_folder_a_config_or_a_model(product: Path, name: str) -> None:
    """Without config.json the engine's own names of files hold."""
    with Engine(product) as engine:
        prompt = engine.tokenize(engine.apply_template([{"role": "user", "content": "Hi"}]))
        expected = engine.generate(prompt, 6)
    path = product / name if name else product
    running = Chat(_parse([str(path), "--greedy", "--max-new-tokens", "6"]), io.StringIO(), io.StringIO())
    running.say("Hi")
    running.close()
    assert running.last.ids == expected


def test_reset_keeps_the_system_message(chat: Chat) -> None:
    commands.execute(chat, "/system Be brief.")
    chat.say("Hi")
    commands.execute(chat, "/reset")
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_system_starts_afresh_and_can_be_taken_away(chat: Chat) -> None:
    chat.say("Hi")
    commands.execute(chat, "/system Be brief.")
    assert len(chat.messages) == 1
    commands.execute(chat, "/system")
    assert chat.messages == []


def test_sampler_keys_take_effect_without_a_new_engine(chat: Chat) -> None:
    process = chat.engine._process
    chat.arguments.greedy = False
    commands.execute(chat, "/set temperature=0.25 top_k=7")
    assert (chat.sampler.sampling.temperature, chat.sampler.sampling.top_k) == (0.25, 7)
    assert chat.engine._process is process


def test_engine_keys_load_the_engine_again(chat: Chat) -> None:
    chat.say("Hi")
    process = chat.engine._process
    commands.execute(chat, "/set thread_num=2")
    assert chat.engine._process is not process
    assert chat.engine.config["thread_num"] == 2
    assert len(chat.messages) == 2
    chat.say("More")
    assert chat.last.ids


@pytest.mark.parametrize("text", ["temprature=1", "temperature=hot", "temperature", "thread_num=-1"])
def test_wrong_settings_change_nothing(chat: Chat, text: str) -> None:
    with pytest.raises(UserError):
        commands.execute(chat, f"/set {text}")
    assert chat.keys == {}


def test_set_alone_shows_the_sessions_keys(chat: Chat) -> None:
    commands.execute(chat, "/set min_p=0.5")
    commands.execute(chat, "/set")
    assert '{"min_p": 0.5}' in _notes(chat)


def test_a_missing_adapter_leaves_the_conversation_usable(chat: Chat) -> None:
    with pytest.raises(PipelineError, match=r"lora\.mnn is missing"):
        commands.execute(chat, "/lora lora.mnn")
    chat.say("Hi")
    assert chat.last.ids


def test_a_copy_of_the_model_is_a_lora_that_changes_nothing(product: Path, tmp_path: Path) -> None:
    """The engine's create_lora takes a whole graph; without adapter layers the answers are the base's."""
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    shutil.copy(folder / "llm.mnn", folder / "lora.mnn")
    arguments = [str(folder), "--greedy", "--max-new-tokens", "6"]
    base, adapted = (
        Chat(_parse([*arguments, *more]), io.StringIO(), io.StringIO()) for more in ([], ["--adapter", "lora.mnn"])
    )
    for one in (base, adapted):
        one.say("Hi")
        one.close()
    assert adapted.last.ids == base.last.ids


def test_adapters_are_switched_without_loading_the_base_again(product: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(product, tmp_path / "copy"))
    shutil.copy(folder / "llm.mnn", folder / "pirate.mnn")
    (folder / "manifest.json").write_text('{"adapters": {"pirate": {}}}')
    notes = io.StringIO()
    chat = Chat(_parse([str(folder), "--greedy", "--max-new-tokens", "6"]), io.StringIO(), notes)
    process = chat.engine._process
    chat.say("Hi")
    base = chat.last.ids
    commands.execute(chat, "/lora pirate")
    assert chat.session.cached == []
    assert "Adapter: pirate.mnn; the product has pirate" in notes.getvalue()
    commands.execute(chat, "/reset")
    chat.say("Hi")
    assert chat.last.cached == 0
    assert chat.last.ids == base
    commands.execute(chat, "/lora free pirate")
    assert chat.engine.adapter == chat.arguments.adapter == ""
    with pytest.raises(PipelineError, match=r"pirate\.mnn is not loaded"):
        commands.execute(chat, "/lora free pirate")
    commands.execute(chat, "/lora off")
    assert chat.engine._process is process
    chat.close()


def test_stats_and_help(chat: Chat) -> None:
    chat.say("Hi")
    commands.execute(chat, "/stats")
    commands.execute(chat, "/help")
    notes = _notes(chat)
    assert "2 messages" in notes
    assert "peak memory" in notes
    assert all(f"/{name}" in notes for name in commands.COMMANDS)


def test_save_writes_the_conversation(chat: Chat, tmp_path: Path) -> None:
    chat.say("Hi")
    commands.execute(chat, f"/save {tmp_path / 'talk.json'}")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"] == chat.messages


@pytest.mark.parametrize("line", ["/save", "/save /nowhere/x.json", "/restet"])
def test_commands_that_cannot_be_carried_out(chat: Chat, line: str) -> None:
    with pytest.raises(UserError):
        commands.execute(chat, line)


def test_exit(chat: Chat) -> None:
    assert commands.execute(chat, "/exit") is False
    assert commands.execute(chat, "/help") is True


def test_a_crash_starts_the_engine_again_and_says_so(chat: Chat) -> None:
    chat.say("Hi")
    assert chat.engine._process is not None
    os.kill(chat.engine._process.pid, signal.SIGKILL)
    chat.say("More")
    assert "killed by SIGKILL" in _notes(chat)
    assert "started again" in _notes(chat)
    assert [message["content"] for message in chat.messages if message["role"] == "user"] == ["Hi"]
    chat.say("Again")
    assert chat.last.ids


def test_the_command_reads_a_pipe(product: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(product), "--greedy", "--max-new-tokens", "4"],
        input="Hi\n/nonsense\n\n/exit\nnever read\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1  # one of the lines was wrong
    assert done.stderr.count("prefill") == 1
    assert "there is no /nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_product(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: no product at")


def _read_until(descriptor: int, text: str, seconds: float = 60.0) -> str:
    seen, end = "", time.monotonic() + seconds
    while text not in seen and time.monotonic() < end:
        if select.select([descriptor], [], [], 0.2)[0]:
            seen += os.read(descriptor, 65536).decode("utf-8", "replace")
    assert text in seen, seen
    return seen


def test_ctrl_c_stops_the_answer_and_not_the_program(product: Path) -> None:
    """On a real terminal: Ctrl-C reaches the engine's process too, which has to survive it."""
    ours, theirs = pty.openpty()
    arguments = [*COMMAND, str(product), "--max-new-tokens", "100000", "--set", "banned_tokens=[257]"]
    process = subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                               preexec_fn=_take_terminal)  # fmt: skip
    os.close(theirs)
    try:
        _read_until(ours, "> ")
        os.write(ours, b"Hi\n")
        streamed = _read_until(ours, "Hi\r\n").partition("Hi\r\n")[2]
        while len(streamed) < 20:  # text is there long before the answer's end, which is 100,000 tokens away
            assert select.select([ours], [], [], 20.0)[0]
            streamed += os.read(ours, 4096).decode("utf-8", "replace")
        assert "]\r\n" not in streamed
        os.write(ours, b"\x03")
        assert "cancelled" in _read_until(ours, "]\r\n")
        os.write(ours, b"/stats\n")
        assert "messages" in _read_until(ours, "loaded in")
        os.write(ours, b"/seX\x7ft\n")  # backspace, then the line before last from the history
        _read_until(ours, "{\"banned_tokens\": [257]}")
        os.write(ours, b"\x1b[A\x1b[A\n")
        assert "messages" in _read_until(ours, "loaded in")
        os.write(ours, b"/exit\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(ours)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
