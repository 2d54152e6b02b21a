"""Which files of a model's folder (or of its hub repository) an export needs, by name alone."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePosixPath

from pipeline.errors import UserError

INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "tokenizer*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
# What sentence-transformers keeps beside the transformer's own files, its pooling module's folder too.
SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
SENTENCE_MODULE = re.compile(r"\d+_\w+/config\.json")
# Mistral's own format beside the Hugging Face one, and LoRA weights that were saved into the model's folder.
NOT_THE_MODEL = ("consolidated", "adapter")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth")
GGUF_SPLIT = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


def select_files(
    names: Iterable[str], read: Callable[[str], bytes], where: str, remote_code: bool, allow_pickle: bool
) -> list[str]:
    """Names of the files to take, sorted: configuration, tokenizer, and one set of weights.

    names: files of the folder, POSIX. read: content of a small file by name (an index). where: named in errors.
    Raises UserError when there are no weights, or weights of a kind that is not allowed.
    """
    listed = sorted(names)
    top = [name for name in listed if "/" not in name]
    patterns = (*SMALL_FILES, *SENTENCE_FILES, *(("*.py",) if remote_code else ()))
    chosen = {name for name in top if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    chosen |= {name for name in listed if SENTENCE_MODULE.fullmatch(name)}
    weights = _weights(top, read, where, allow_pickle)
    missing = sorted(set(weights) - set(top))
    if missing:
        raise UserError(f"{where}: the index names {missing[0]}, which is not there", "complete the download")
    return sorted(chosen | set(weights) | ({INDEX, PICKLE_INDEX} & set(top) if len(weights) > 1 else set()))


def _weights(top: list[str], read: Callable[[str], bytes], where: str, allow_pickle: bool) -> list[str]:
    if INDEX in top:
        return _indexed(read(INDEX), INDEX, where)
    if "model.safetensors" in top:
        return ["model.safetensors"]
    others = [name for name in top if name.endswith(".safetensors") and not name.startswith(NOT_THE_MODEL)]
    if len(others) == 1:
        return others
    if others:
        raise UserError(
            f"{where}: several .safetensors files and no {INDEX} ({', '.join(others[:3])} …)",
            f"add {INDEX}, or keep one file",
        )
    if gguf := [name for name in top if name.endswith(".gguf")]:
        return select_gguf(gguf, where)
    if pickles := [name for name in top if any(fnmatch.fnmatchcase(name, pattern) for pattern in PICKLES)]:
        return _pickled(top, pickles, read, where, allow_pickle)
    raise UserError(
        f"{where}: no weights there (model.safetensors, {INDEX} or a .gguf file)",
        "point model.path or model.repo at a folder that holds them",
    )


def _pickled(
    top: list[str], pickles: list[str], read: Callable[[str], bytes], where: str, allow_pickle: bool
) -> list[str]:
    if not allow_pickle:
        raise UserError(
            f"{where}: the weights are pickles ({pickles[0]}), which can run code when they are opened",
            "convert them to safetensors, or say model.allow_pickle=true",
        )
    if PICKLE_INDEX in top:
        return _indexed(read(PICKLE_INDEX), PICKLE_INDEX, where)
    if len(pickles) > 1 and "pytorch_model.bin" not in pickles:
        raise UserError(f"{where}: several pickled weight files ({', '.join(pickles[:3])})", "keep one of them")
    return ["pytorch_model.bin"] if "pytorch_model.bin" in pickles else pickles


def select_gguf(names: Collection[str], where: str) -> list[str]:
    """The one GGUF model among `names`: a single file or all parts of one split. UserError if there are several."""
    first = sorted(names)[0]
    family = gguf_parts(first) or [first]
    if set(names) - set(family):
        raise UserError(
            f"{where}: several GGUF files ({', '.join(sorted(names)[:3])} …)", "name one with model.path=FILE.gguf"
        )
    return family


def gguf_parts(name: str) -> list[str] | None:
    """All parts' names of the split that `name` (…-00001-of-00003.gguf) belongs to, or None for a single file."""
    match = GGUF_SPLIT.match(name)
    if match is None:
        return None
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def _indexed(content: bytes, index: str, where: str) -> list[str]:
    try:
        files = set(json.loads(content)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {index} is not a weight index ({error})", "download it again") from error
    return sorted(inside(name, f"{where}: {index}") for name in files)


def inside(name: object, where: str) -> str:
    """`name` itself if it stays in the model's folder; UserError for an absolute name or one with `..` in it."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        raise UserError(f"{where} names a file {name!r}", "use plain file names")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where} names a file outside the model's folder: {name}", "do not trust this model")
    return name
