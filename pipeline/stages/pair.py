"""How a cross-encoder's query and document become one sequence of ids, and its logit a score."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.stages.tokenizer import FILES
from pipeline.verify.applies import reranks

STAGE = Stage(
    name="pair",
    module=__name__,
    inputs=(Input("checkpoint", FILES),),
    applies=reranks,
    in_process=True,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write pair.json: "before", "between", "after" (ids), "typed", "max_tokens" (0: none said), "activation".

    Raises UserError for a model that is no cross-encoder, or whose tokenizer does not say how pairs are written.
    """
    from pipeline.graph.classifier import activation, check_cross_encoder, longest
    from pipeline.tokenizer.folder import TokenizerFolder
    from pipeline.tokenizer.pair import pair_of
    from pipeline.tokenizer.read import load_definition

    folder = TokenizerFolder.open(inputs["checkpoint"])
    check_cross_encoder(folder.config)
    pair = pair_of(load_definition(folder), folder.tokenizer_config.get("model_input_names"))
    told = {**pair.plain(), "max_tokens": longest(folder.tokenizer_config), "activation": activation(folder.config)}
    (out / "pair.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
