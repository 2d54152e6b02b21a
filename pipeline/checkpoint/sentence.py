"""How a sentence-transformers model makes one vector of a text: pooling, normalisation, prompts, longest text.

File formats: sentence-transformers' own (modules.json, <module>/config.json, config_sentence_transformers.json,
sentence_bert_config.json), versions 2 to 5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.graph.support import POOLINGS

MODULES = "modules.json"
# Flags of a pooling module's config.json → the names above (one flag each, in the order that they are concatenated).
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {"lasttoken": "last"}


@dataclass(frozen=True)
class SentenceConfig:
    """pooling: one of POOLINGS. normalize: L2. max_tokens: texts are cut there, special tokens counted; 0 = unknown.

    prompts: name → text put before a text. default_prompt: the name used when none is asked for ("" = none).
    lowercase: the text is lowercased before it is tokenised.
    """

    pooling: str
    normalize: bool
    max_tokens: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    lowercase: bool = False


def read_sentence_config(folder: Path, pooling: str = "") -> SentenceConfig:
    """The config of a model folder. pooling: the recipe's `model.pooling`, which goes before the model's own.

    Raises UserError for a model that does not say how to pool, and for modules that the exporter cannot express.
    """
    modules = [(str(item["type"]).rpartition(".")[2], str(item["path"])) for item in _read(folder / MODULES, [])]
    _check_modules([kind for kind, _ in modules], bool(pooling))
    where = next((path for kind, path in modules if kind == "Pooling"), "")
    told = _read(folder / where / "config.json", {}) if where else {}
    whole = _read(folder / "config_sentence_transformers.json", {})
    bert = _read(folder / "sentence_bert_config.json", {})
    prompts = {str(name): str(text) for name, text in (whole.get("prompts") or {}).items() if text}
    if prompts and told.get("include_prompt") is False:
        raise UserError("the model pools without its prompt's tokens (include_prompt: false), which no graph can know")
    return SentenceConfig(
        pooling=pooling or _pooling(told),
        normalize="Normalize" in [kind for kind, _ in modules] or not modules,
        max_tokens=int(bert.get("max_seq_length") or 0),
        prompts=prompts,
        default_prompt=str(whole.get("default_prompt_name") or ""),
        lowercase=bool(bert.get("do_lower_case")),
    )


def _check_modules(kinds: list[str], told: bool) -> None:
    if not kinds and not told:
        raise UserError(
            f"the model has no {MODULES}, so it does not say how its tokens' vectors become one",
            f"set model.pooling to {', '.join(POOLINGS[:-1])} or {POOLINGS[-1]}",
        )
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise UserError(f"the model has a {unknown[0]} module behind its transformer, which the exporter does not know")


def _pooling(told: Mapping[str, Any]) -> str:
    named = told.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes += [name for flag, name in _FLAGS.items() if told.get(flag)]
    found = [_NAMES.get(mode, mode) for mode in modes]
    if len(found) != 1 or found[0] not in POOLINGS:
        raise UserError(
            f"the model pools its tokens by {' and '.join(found) or 'nothing'}, which the exporter cannot express",
            f"known: {', '.join(POOLINGS)}, one at a time",
        )
    return str(found[0])


def _read(path: Path, missing: Any) -> Any:
    if not path.is_file():
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is not valid JSON: {error}", "fetch the model again") from None
