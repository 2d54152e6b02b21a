"""Stage `config`: config.json and llm_config.json, what the engine reads before anything else.

The model's own facts go into llm_config.json, which the engine merges over config.json; what a person may change by
hand goes into config.json. A wrong key here is not noticed by the engine: it answers nonsense, so all of it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage
from pipeline.errors import StageFailed
from pipeline.runtime.check import check
from pipeline.runtime.key import version
from pipeline.runtime.keys import KEYS
from pipeline.runtime.recurrent import check_recurrent
from pipeline.runtime.sampling import sampling
from pipeline.runtime.tie import tied_rows

STAGE = Stage(
    name="config",
    module="pipeline.stages.config",
    inputs=(
        Input("graph", ("layout.json",)),
        Input("places", ("places.json",)),
        Input("embedding", ("embedding.json",)),
        Input("tokenizer", ("tokenizer.json",)),
        Input("checkpoint", ("generation_config.json",)),
        Input("visual_graph", ("layout.json",)),
        Input("audio_graph", ("layout.json",)),
    ),
    config=("target.engine", "target.runtime", "target.tie_embeddings"),
    in_process=True,
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Write both files. Raises StageFailed if the product's facts do not fit the engine of the target."""
    target = config["target"]
    engine = str(target["engine"])
    layout = _read(inputs["graph"] / "layout.json")
    embedding = _read(inputs["embedding"] / "embedding.json")
    tokenizer = _read(inputs["tokenizer"] / "tokenizer.json")
    generation = _read(inputs["checkpoint"] / "generation_config.json", missing={})
    places = _read(inputs["places"] / "places.json")

    runtime = {**_files(embedding, tokenizer), **sampling(generation, engine, log.note), **target["runtime"]}
    model = _model(layout, tokenizer, engine)
    for kind in [kind for kind in ("visual", "audio") if f"{kind}_graph" in inputs]:
        model |= _read(inputs[f"{kind}_graph"] / "layout.json")["engine"]
        runtime[f"{kind}_model"] = f"{kind}.mnn"
    tied = tied_rows(layout, places, embedding, engine, str(target["tie_embeddings"]))
    if tied is not None:
        model["tie_embeddings"] = tied
    for name in [name for name in runtime if name in KEYS and KEYS[name].file == "llm_config"]:
        model[name] = _merged(model.get(name), runtime.pop(name))

    _refuse_wrong(runtime | model, engine, bool(layout.get("recurrent")))
    _write(out / "config.json", runtime)
    _write(out / "llm_config.json", model)


def _files(embedding: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    files = {"llm_model": "llm.mnn", "llm_weight": "llm.mnn.weight", "tokenizer_file": tokenizer["file"]}
    if embedding["mode"] == "separate":
        files["embedding_file"] = embedding["file"]
    return files


def _model(layout: Mapping[str, Any], tokenizer: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """The model's own keys. attention_mask must be "float" (else attention looks ahead), but for encoders, which do."""
    model: dict[str, Any] = {
        "hidden_size": layout["hidden_size"],
        "layer_nums": layout["num_layers"],
        "attention_mask": "int" if _looks_ahead(layout) else "float",
        "attention_type": layout["attention_type"],
    }
    if layout["attention_type"] == "mix":
        model["sliding_window"] = layout["sliding_window"]
    if layout.get("is_mrope"):
        model["is_mrope"] = True
    if tokenizer.get("chat_template"):
        model["jinja"] = _jinja(tokenizer, engine)
    return model


def _looks_ahead(layout: Mapping[str, Any]) -> bool:
    told = layout.get("sentence") or layout.get("pair") or {}
    return told.get("causal") is False


def _jinja(tokenizer: Mapping[str, Any], engine: str) -> dict[str, Any]:
    jinja = {"chat_template": tokenizer["chat_template"], "eos": tokenizer.get("eos_token") or ""}
    if version(engine) < (3, 5, 0):
        jinja["bos"] = tokenizer.get("bos_token") or ""  # later engines take it from the tokenizer file only
    return jinja


def _merged(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def _refuse_wrong(values: Mapping[str, Any], engine: str, recurrent: bool) -> None:
    problems = check(values, engine) + (check_recurrent(values, engine) if recurrent else [])
    if problems:
        raise StageFailed(f"config.json would be wrong: {problems[0]}", "see docs/runtime.md")


def _read(path: Path, missing: Any = None) -> Any:
    if missing is not None and not path.is_file():
        return missing
    return json.loads(path.read_text("utf-8"))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
