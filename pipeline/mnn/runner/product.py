"""What must hold of a product's files before native code sees them: the engine itself checks nothing.

A weight file 1,000 bytes short loads and talks nonsense, a token id out of range is a segmentation fault.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed, UserError
from pipeline.mnn import flatbuffer, schema
from pipeline.mnn.flatbuffer import Table
from pipeline.runtime.check import check
from pipeline.runtime.keys import KEYS
from pipeline.runtime.product import outside_folder
from pipeline.runtime.recurrent import check_recurrent

Json = dict[str, Any]
# The largest line 3 of a tokenizer file that is read for its stop ids.
_HEADER_BYTES = 1 << 20


class ProductError(StageFailed):
    """A product's files do not belong together, or one of them is missing or damaged."""


@dataclass(frozen=True)
class Product:
    """A checked product. config: config.json with llm_config.json merged over it, as the engine does.

    vocab_size: rows of the embedding. stop_ids: what ends a generation, from the tokenizer file. manifest: what the
    export wrote beside them, {} for a product of another exporter. recurrent: the model has a state from token to token
    beside attention's keys and values, of which nothing can be taken back (pipeline/runtime/recurrent.py).
    """

    folder: Path
    config_file: Path
    config: Json
    vocab_size: int
    stop_ids: tuple[int, ...]
    manifest: Json = field(default_factory=dict)
    recurrent: bool = False

    @property
    def positions(self) -> int:
        """Positions that the model was made for, as far as the product says so; 0 = unknown."""
        traced = self.manifest.get("model", {}).get("max_position_embeddings")
        recipe = self.manifest.get("config", {}).get("model", {}).get("context_length")
        known = self.config.get("max_position_embeddings") or traced or recipe
        return known if isinstance(known, int) and known > 0 else 0

    def file(self, key: str, default: str) -> Path:
        """The path of a file that the config names under `key`."""
        return self.folder / str(self.config.get(key, default))


def open_product(path: Path | str) -> Product:
    """`path`: a product's folder, a config file in it, or an llm.mnn (then without config.json: the engine's defaults).

    Raises UserError when there is no product at `path`, ProductError when its files are not whole.
    """
    config_file = _config_file(Path(path))
    folder = config_file.parent
    config = _read_config(config_file)
    _refuse_paths(folder, config)
    config |= _read_json(folder / str(config.get("llm_config", "llm_config.json")))
    _refuse_paths(folder, config)
    product = Product(folder, config_file, config, 0, ())
    model = _existing(product, "llm_model", "llm.mnn")
    tokenizer = _existing(product, "tokenizer_file", "tokenizer.txt")
    check_weights(model, _existing(product, "llm_weight", "llm.mnn.weight"))
    manifest = folder / "manifest.json"
    recurrent = is_recurrent(model.read_bytes())
    refuse_recurrent(folder, config if recurrent else {})
    return Product(
        folder=folder,
        config_file=config_file,
        config=config,
        vocab_size=_embedding_rows(product),
        stop_ids=read_stop_ids(tokenizer),
        manifest=_read_json(manifest) if manifest.is_file() else {},
        recurrent=recurrent,
    )


def _refuse_paths(folder: Path, config: Json) -> None:
    """A product may come from anywhere: none of its files may lie outside its folder. Raises UserError."""
    paths = {name: value for name, value in config.items() if name in KEYS and KEYS[name].path}
    for line in (*check(paths), *outside_folder(config)):
        raise UserError(f"{folder}: {line}", "mend config.json, or export the product again")


def refuse_recurrent(folder: Path, config: Json) -> None:
    """Raises UserError for keys with which the engine would run a model with a recurrent state wrongly."""
    for line in check_recurrent(config):
        raise UserError(f"{folder}: {line}", "take the key out")


def check_weights(model: Path, weight: Path) -> None:
    """Raises ProductError if the weight file ends before an operator's data does."""
    needed, found = external_end(model.read_bytes()), weight.stat().st_size
    if found < needed:
        raise ProductError(
            f"{weight} has {found:,} bytes, but {model.name} reads {needed:,}", "build the product again"
        )


def external_end(mnn: bytes) -> int:
    """The end of the last range of the weight file that the model refers to, in bytes."""
    ends = [0]
    for kind, operator in _operators(mnn):
        main = operator.table(schema.OP_MAIN)
        external = main.vector(schema.EXTERNAL_SLOTS[kind], "<i8") if kind in schema.EXTERNAL_SLOTS and main else None
        if external is not None and external.size:
            ends.append(int(external.sum()))
    return max(ends)


def is_recurrent(mnn: bytes) -> bool:
    """True if any operator of the model keeps a state from token to token that is no cache of keys and values."""
    return any(kind == "LinearAttentionParam" for kind, _ in _operators(mnn))


def _operators(mnn: bytes) -> Iterator[tuple[str, Table]]:
    """Every operator with the name of its parameters' type, "" for one that schema.py does not list."""
    net = flatbuffer.root(mnn)
    subgraphs = [subgraph.tables(schema.SUBGRAPH_NODES) for subgraph in net.tables(schema.NET_SUBGRAPHS)]
    for operator in itertools.chain(net.tables(schema.NET_OPS), *subgraphs):
        yield schema.UNION_TYPES.get(operator.uint8(schema.OP_MAIN_TYPE), ""), operator


def read_stop_ids(tokenizer: Path) -> tuple[int, ...]:
    """The stop ids in a tokenizer file's three text lines (`430 <type>`, three counts, the ids; engine tag 3.6.1)."""
    with tokenizer.open("rb") as file:
        lines = [file.readline(_HEADER_BYTES) for _ in range(3)]
    try:
        magic, kind = (int(word) for word in lines[0].split())
        special, stop, prefix = (int(word) for word in lines[1].split())
        ids = [int(word) for word in lines[2].split()]
    except ValueError:
        magic, kind, special, stop, prefix, ids = 0, 0, 0, 0, 0, []
    if magic != 430 or not 0 <= kind <= 4 or len(ids) != special + stop + prefix:
        raise ProductError(f"{tokenizer} is not one of MNN's tokenizer files, or is damaged", "build the product again")
    return tuple(ids[special : special + stop])


def _config_file(path: Path) -> Path:
    config_file = path / "config.json" if path.is_dir() else path
    if not config_file.is_file():
        raise UserError(f"no product at {path}: there is no {config_file.name}", "give the folder that an export wrote")
    return config_file.absolute()  # not resolve(): the files of a product may be links into the store


def _read_config(path: Path) -> Json:
    """For an .mnn the same two names as the engine supposes (llmconfig.hpp, tag 3.6.1)."""
    if path.suffix == ".mnn":
        return {"llm_model": path.name, "llm_weight": f"{path.name}.weight"}
    return _read_json(path)


def _read_json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProductError(f"{path} is missing", "build the product again") from None
    except ValueError as error:
        raise ProductError(f"{path} is not JSON: {error}", "build the product again") from None
    if not isinstance(value, dict):
        raise ProductError(f"{path} is not a JSON object", "build the product again")
    return value


def _existing(product: Product, key: str, default: str) -> Path:
    path = product.file(key, default)
    if not path.is_file() or path.stat().st_size == 0:
        raise ProductError(f"{path} is missing or empty", "build the product again")
    return path


def _embedding_rows(product: Product) -> int:
    hidden = product.config.get("hidden_size")
    if not isinstance(hidden, int) or hidden <= 0:
        raise ProductError(f"{product.folder}: llm_config.json says no hidden_size", "build the product again")
    tied = product.config.get("tie_embeddings")
    if tied:
        return _tied_rows(product, tied, hidden)
    rows, rest = divmod(_existing(product, "embedding_file", "embeddings_bf16.bin").stat().st_size, 2 * hidden)
    if rest or not rows:
        raise ProductError(f"{product.folder}: the embedding's size is no multiple of {2 * hidden} bytes")
    return rows


def _tied_rows(product: Product, tied: Any, hidden: int) -> int:
    """tie_embeddings: a dict, or the older list [weight_offset, alpha_offset, alpha_size, bits, block, …]."""
    names = ("weight_offset", "alpha_offset", "alpha_size", "quant_bit", "quant_block")
    entry = tied if isinstance(tied, dict) else dict(zip(names, tied, strict=False))
    try:
        start, alpha, size, bits = (int(entry[name]) for name in names[:4])
        rows, rest = divmod((alpha - start) * 8, bits * hidden)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ProductError(f"{product.folder}: llm_config.json's tie_embeddings is incomplete: {tied}") from None
    key, default = ("llm_weight", "llm.mnn.weight") if start else ("embedding_file", "embeddings_bf16.bin")
    if rest or rows <= 0 or alpha + size > _existing(product, key, default).stat().st_size:
        raise ProductError(f"{product.folder}: tie_embeddings does not fit hidden_size and the file: {tied}")
    return rows
