"""The table of keys: sound in itself, and its defaults pass its own checks."""

from __future__ import annotations

import pytest

from pipeline.recipe.conf import SHIPPED, option_files, read_yaml
from pipeline.runtime.check import check, check_value
from pipeline.runtime.key import OLDEST, Key, version
from pipeline.runtime.keys import KEYS, SECTIONS
from pipeline.runtime.retired import RETIRED

# The keys of MNN's own page on its language models; the engine still reads all but the retired ones.
PAGE_KEYS = [
    "base_dir",
    "llm_config",
    "llm_model",
    "llm_weight",
    "block_model",
    "lm_model",
    "embedding_model",
    "embedding_file",
    "tokenizer_file",
    "visual_model",
    "max_new_tokens",
    "reuse_kv",
    "quant_qkv",
    "use_mmap",
    "kvcache_mmap",
    "tmp_path",
    "backend_type",
    "thread_num",
    "precision",
    "memory",
    "hidden_size",
    "layer_nums",
    "attention_mask",
    "key_value_shape",
    "prompt_template",
    "is_visual",
    "is_single",
]

# Engines after 3.4.0 that began to read keys, by their tags' sources.
FIRST_READ = {
    "is_mrope": "3.4.1",
    "top_k": "3.5.0",
    "min_p": "3.5.0",
    "timeout_ms": "3.5.0",
    "mmap_size": "3.5.0",
    "banned_tokens": "3.5.0",
    "attn_scale": "3.6.0",
    "dflash_model": "3.6.0",
    "ple_embed_dim": "3.6.0",
}


def test_no_key_is_there_twice_or_also_retired() -> None:
    names = [key.name for section in SECTIONS.values() for key in section]
    assert len(names) == len(set(names)) == len(KEYS)
    assert not set(KEYS) & set(RETIRED)


@pytest.mark.parametrize("name", PAGE_KEYS)
def test_every_key_of_mnns_page_is_known(name: str) -> None:
    assert name in KEYS or name in RETIRED


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_a_key_is_described_and_its_default_is_allowed(key: Key) -> None:
    assert key.meaning
    assert version(OLDEST) <= version(key.since) <= (3, 6, 1)
    empty = key.name in ("tie_embeddings", "chunk_limits", "image_mean", "image_norm")  # absent, not empty, by default
    assert empty or check_value(key, key.default) == []


@pytest.mark.parametrize(("name", "since"), FIRST_READ.items())
def test_since_is_the_first_tag_that_reads_the_key(name: str, since: str) -> None:
    assert KEYS[name].since == since


@pytest.mark.parametrize("retired", RETIRED.values(), ids=lambda retired: retired.name)
def test_a_retired_key_has_a_reason_and_a_sound_successor(retired: object) -> None:
    assert retired.reason  # type: ignore[attr-defined]
    successor = retired.successor  # type: ignore[attr-defined]
    if successor:
        values = [new for _, new in retired.values]  # type: ignore[attr-defined]
        assert all(check({successor: value}) == [] for value in values)


@pytest.mark.parametrize("target", option_files("target", [SHIPPED]))
def test_every_shipped_target_is_valid_for_its_engine(target: str) -> None:
    content = read_yaml(option_files("target", [SHIPPED])[target])
    assert check(content["runtime"], content["engine"]) == []
