"""The engine's tokenizer in a child process: batches, bytes, crashes and hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StageFailed
from pipeline.tokenizer.engine import EngineTokenizer, Render
from pipeline.tokenizer.mtok import Extras

from . import tiny

USER = ({"role": "user", "content": "Hé"},)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> EngineTokenizer:
    template = "{{ bos_token }}|{{ eos_token }}|{{ extra }}|{{ messages[0].content }}"
    extras = Extras(stop=(4,), prefix=(1,), chat_template=template, bos="<s>", eos="</s>")
    return tiny.engine(tiny.gpt2(), tmp_path_factory.mktemp("engine"), extras)


def test_prefix_ids_come_first(gpt2: EngineTokenizer) -> None:
    hugging_face = tiny.ids(tiny.gpt2(), ["plain words"])[0]
    assert gpt2.encode(["plain words", ""]) == [[1, *hugging_face], [1]]


def test_decode_gives_bytes_also_inside_a_character(gpt2: EngineTokenizer) -> None:
    ids = tiny.ids(tiny.gpt2(), ["🫠"])[0]
    assert len(ids) > 1
    assert b"".join(gpt2.decode([[index] for index in ids])) == "🫠".encode()
    assert gpt2.decode([ids, []]) == ["🫠".encode(), b""]


def test_template_sees_tokens_and_variables_of_its_own_call(gpt2: EngineTokenizer) -> None:
    calls = [Render(USER, {"extra": "x"}), Render(USER, {})]
    assert gpt2.render(calls, "</s>") == ["<s>|</s>|x|Hé", "<s>|</s>||Hé"]


def test_template_of_the_call_replaces_the_file_s(gpt2: EngineTokenizer) -> None:
    assert gpt2.render([Render(USER, {}, "{{ messages|length }}{{ eos_token }}")], "E") == ["1E"]


def test_whole_messages_reach_the_template(gpt2: EngineTokenizer) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    assert gpt2.render([Render((message,), {}, "{{ messages[0].tool_calls[0].name }}")]) == ["f"]


def test_a_crash_names_the_text(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.mtok"
    whole = (tiny.engine(tiny.gpt2(), tmp_path)).file.read_bytes()
    file.write_bytes(tiny.crashing(whole, "!"))
    with pytest.raises(StageFailed, match=r"crashed \(signal \d+\) on encode of .*word"):
        EngineTokenizer(file).encode(["word"])


def test_a_hang_is_ended(gpt2: EngineTokenizer) -> None:
    endless = EngineTokenizer(gpt2.file, timeout=3)
    with pytest.raises(StageFailed, match="did not answer within 3 s"):
        endless.render([Render(USER, {}, "{{ ['unclosed }}")])
