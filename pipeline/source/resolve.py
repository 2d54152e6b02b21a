"""From `recipe.model` to files on the disk with digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.stage import Log
from pipeline.errors import UserError
from pipeline.recipe import adapter_paths
from pipeline.source.digest import DigestMemo, Reading
from pipeline.source.directory import describe_files, from_path
from pipeline.source.listing import SourceListing
from pipeline.source.package import from_package

GPTQ_FOLDER = "gptq"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def resolve(
    model: Mapping[str, Any], cache_dir: Path, log: Log, reading: Reading | None = None
) -> SourceListing:
    """Files of `recipe.model`; downloads what is missing. `model.path`, when set, goes before every hub.

    cache_dir holds the memo of digests; reading: see DigestMemo. Raises UserError for what a person can mend.
    """
    memo = DigestMemo(cache_dir, log, reading)
    try:
        listing = _base(model, cache_dir, memo, log)
        return _with_gptq(listing, str(model.get("gptq_path") or ""), memo)
    finally:
        memo.save()


def resolve_adapter(
    adapter: Mapping[str, Any], cache_dir: Path, log: Log, reading: Reading | None = None
) -> SourceListing:
    """Files of the adapters in `adapter.path`: `A`, `A+B` (applied in that order) or `A@0.7+B@0.3` (weighted).

    Names are those of the folder for a single `A`; else "0/adapter_config.json", "1/…", or "0@0.7/…" with a weight.
    With `adapter.mode` split the adapters stay apart, under names: "lora/…", "pirate@0.7/…".
    Raises UserError when a folder or a file of it is missing, or a weight is no number.
    """
    memo = DigestMemo(cache_dir, log, reading)
    files = {}
    try:
        for prefix, folder in _adapter_folders(adapter).items():
            for name, file in _adapter_files(folder, memo).items():
                files[prefix + name] = file
    finally:
        memo.save()
    return SourceListing(files, "", "adapter")


def _base(model: Mapping[str, Any], cache_dir: Path, memo: DigestMemo, log: Log) -> SourceListing:
    remote_code, allow_pickle = bool(model.get("trust_remote_code")), bool(model.get("allow_pickle"))
    hub = str(model.get("hub") or "huggingface")
    if path := str(model.get("path") or ""):
        return from_path(path, memo, remote_code, allow_pickle)
    if hub == "local":
        raise UserError("model.path is not set, so there is no model to build", "add model.path=DIR (or a .gguf file)")
    if hub == "package":
        package = model.get("package") or {}
        return from_package(str(package.get("distribution")), str(package.get("file")), memo)
    if hub == "huggingface":
        from pipeline.source.hub import from_hub

        return from_hub(model, cache_dir, memo, log)
    if hub == "modelscope":
        from pipeline.source.modelscope import from_modelscope

        return from_modelscope(model, cache_dir, memo, log)
    raise UserError(f"model.hub={hub} is not a hub", "use huggingface, modelscope, local or package")


def _with_gptq(listing: SourceListing, path: str, memo: DigestMemo) -> SourceListing:
    if not path:
        return listing
    if not Path(path).expanduser().is_dir():
        raise UserError(f"model.gptq_path={path}: there is no such folder", "set it to a GPTQ checkpoint's folder")
    extra = from_path(path, memo)
    files = {**listing.files, **{f"{GPTQ_FOLDER}/{name}": file for name, file in extra.files.items()}}
    return SourceListing(files, listing.revision, listing.kind)


def _adapter_folders(adapter: Mapping[str, Any]) -> dict[str, Path]:
    """Prefix of the files' names → folder."""
    adapters = adapter_paths.parse(str(adapter.get("path") or ""))
    if not adapters:
        raise UserError("adapter.path is not set, so there is no adapter to apply", "add adapter.path=DIR")
    if adapter.get("mode") == "split":
        names = adapter_paths.split_names(adapters)
    elif named := next((one for one in adapters if one.name), None):
        raise UserError(f"adapter.path: {named.name}= names a split adapter, these are merged", "leave the name out")
    elif len(adapters) == 1 and adapters[0].weight == 1.0:
        return {"": Path(adapters[0].folder).expanduser()}
    else:
        names = [str(number) for number in range(len(adapters))]
    return {
        f"{name}{'' if one.weight == 1.0 else f'@{one.weight:g}'}/": Path(one.folder).expanduser()
        for name, one in zip(names, adapters, strict=True)
    }


def _adapter_files(folder: Path, memo: DigestMemo) -> Mapping[str, Any]:
    if not folder.is_dir():
        raise UserError(f"adapter.path={folder}: there is no such folder", "set it to a PEFT adapter's folder")
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}, so this is not a PEFT adapter", "set adapter.path to one")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise UserError(
            f"{folder}: {'only a pickled adapter_model.bin' if pickled else 'no ' + ADAPTER_WEIGHTS}",
            f"save the adapter as {ADAPTER_WEIGHTS} (PEFT's save_pretrained does)",
        )
    present = [
        name
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "tokenizer.json", "tokenizer_config.json", "added_tokens.json")
        if (folder / name).is_file()
    ]
    return describe_files(folder, present, memo)
