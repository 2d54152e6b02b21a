"""Generation ends where Hugging Face's ends: on the engine, with real tokenizers and their templates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline.mnn.runner import Engine
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.verify import selfcheck
from pipeline.verify.product import EXACT
from tests.verify.helpers import MODEL, TARGET

from .conftest import Fetch
from .scripted import answer, write_scripted

LIMIT = 7
QUESTION = [{"role": "user", "content": "Is it so?"}]
# What the models' own generation_config.json lists; the first ends a turn of their chat template.
ENDS = {
    "smollm2": ["<|im_end|>"],
    "qwen3": ["<|im_end|>", "<|endoftext|>"],
    "llama3_1": ["<|eot_id|>", "<|end_of_text|>"],
    "gemma3": ["<end_of_turn>", "<eos>"],
    "deepseek_v3": ["<｜end▁of▁sentence｜>"],
}
NO_END = {"smollm2": "<|im_start|>", "qwen3": "<|im_start|>"}


def _rendered(tokenizer: Any, folder: TokenizerFolder, messages: list[dict[str, str]], prompt: bool = True) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages,
            chat_template=folder.chat_template,
            tokenize=False,
            add_generation_prompt=prompt,
            bos_token=folder.token("bos_token") or "<none>",
        )
    )


@pytest.mark.parametrize("name", ENDS)
def test_generation_ends_where_hugging_face_ends(
    npm_tokenizer: Fetch, smollm2: Path, name: str, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    shutil.copytree(smollm2 if name == "smollm2" else npm_tokenizer(name), source)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    folder = TokenizerFolder.open(source)
    prompt = tokenizer.encode(_rendered(tokenizer, folder, QUESTION), add_special_tokens=False)
    answered = _rendered(tokenizer, folder, [*QUESTION, {"role": "assistant", "content": "Yes."}], prompt=False)
    assert answered.split("Yes.")[1].startswith(ENDS[name][0])  # a turn's end is an end of generation
    yes, dot, *starts = tokenizer.convert_tokens_to_ids(list("ABCDEF"))
    ends = tokenizer.convert_tokens_to_ids(ENDS[name])
    going_on = tokenizer.convert_tokens_to_ids(NO_END.get(name, "a"))
    # Every end would go on with what came before it, were it not an end.
    script = {prompt[-1]: yes, yes: dot, dot: ends[0], ends[0]: yes, going_on: going_on}
    script |= dict(zip(starts, ends[1:], strict=False))
    model = write_scripted(source, script, max(len(tokenizer), *ends) + 1, ends)
    product = selfcheck.build(
        source, tmp_path / "work", selfcheck.fp16_recipe(MODEL, TARGET, {"allow_approximate": False})
    )
    with Engine(product, {**EXACT, "thread_num": 1}) as engine:
        assert sorted(engine.product.stop_ids) == sorted(ends)
        assert engine.tokenize(engine.apply_template(QUESTION)) == prompt
        asked = [prompt, *([start] for start in starts[: len(ends) - 1]), [going_on]]
        told = [engine.generate(ids, LIMIT) for ids in asked]
    assert told == [answer(model, ids, LIMIT) for ids in asked]
    assert told == [[yes, dot, ends[0]], *([end] for end in ends[1:]), [going_on] * LIMIT]
