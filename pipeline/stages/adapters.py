"""adapters: split LoRAs (`adapter=split`) → NAME.mnn and NAME.json each, beside a base product that stays as it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Input, Log, Stage

FACTS = "facts/adapters.json"

STAGE = Stage(
    name="adapters",
    module=__name__,
    inputs=(
        Input("split"),
        Input("checkpoint"),
        Input("graph", ("skeleton.json", "layout.json")),
        Input("places", ("places.json",)),
        Input("config", ("config.json",)),
    ),
    config=("adapter.weight", "target.graph.fuse_c4", "target.mnnconvert"),
    tools=("MNN", "numpy"),
    applies=lambda recipe: bool(recipe["adapter"]["mode"] == "split"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> None:
    """Raises StageFailed for an adapter that is not for this base, or that cannot be split (docs/adapters.md)."""
    from pipeline.checkpoint.lora_split import outlines, read_split, split_folders, summary
    from pipeline.checkpoint.lora_vocabulary import refuse_new_tokens
    from pipeline.mnn.adapter import by_linear
    from pipeline.weights.layout import load_layout

    base = outlines(inputs["checkpoint"] / "tensors.json")
    layout = load_layout(inputs["graph"] / "layout.json")
    folders = split_folders(inputs["split"])
    told: dict[str, Any] = {}
    for number, (name, folder, own) in enumerate(folders):
        refuse_new_tokens(folder, inputs["checkpoint"], f"adapter {name}")
        weight = own * float(config["adapter"]["weight"])
        adapter = read_split(base, name, folder, weight)
        changes = by_linear(adapter, layout, base)
        _link(config, inputs, out, name, changes)
        values = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        told[name] = {**summary(adapter, values), "linears": len(changes), "weight": weight, "model": f"{name}.mnn"}
        _write_config(inputs["config"] / "config.json", out / f"{name}.json", name)
        log.progress(number + 1, len(folders), "adapters")
    (out / FACTS).parent.mkdir()
    (out / FACTS).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    log.note("; ".join(f"{name}.mnn changes {facts['linears']} linears" for name, facts in told.items()))


def _link(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, name: str, changes: Any) -> None:
    from pipeline.mnn.converter import Converter
    from pipeline.mnn.link import link

    places = json.loads((inputs["places"] / "places.json").read_text(encoding="utf-8"))
    target = config["target"]
    with tempfile.TemporaryDirectory(prefix="link-") as scratch:
        work = Path(scratch)
        converter = Converter(work / "converter.log", target.get("mnnconvert", ""))
        fuse_c4 = bool(target["graph"]["fuse_c4"])
        skeleton = inputs["graph"] / "skeleton.json"
        try:
            link(skeleton, places, out, work, converter, fuse_c4, adapter=changes, name=f"{name}.mnn")
        finally:
            if converter.log.is_file():
                print(converter.log.read_text(encoding="utf-8", errors="replace"), flush=True)


def _write_config(base: Path, path: Path, name: str) -> None:
    """The base's config.json but for llm_model: with it the engine opens base and adapter as one model."""
    values = json.loads(base.read_text(encoding="utf-8"))
    text = json.dumps({**values, "llm_model": f"{name}.mnn"}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
