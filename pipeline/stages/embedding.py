"""The `embedding` stage: the token table as the engine reads it from the disk, or a word that the lm_head serves as it.

Formats (MNN: diskembedding.cpp): bf16 rows, little-endian, no header; or packed codes of all rows, followed by float32
pairs [zero, scale] per row and block, w = (u − 2^(bits−1))·scale + zero, 4-bit codes high nibble first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.stage import Digests, Input, Log, Stage
from pipeline.errors import StageFailed, UserError

if TYPE_CHECKING:
    from pipeline.checkpoint.tensor import Array, Checkpoint
    from pipeline.weights.hashed import HashedFile

# Values that are handled at a time; 4 bytes each in float32.
PIECE = 1 << 20

STAGE = Stage(
    name="embedding",
    module="pipeline.stages.embedding",
    inputs=(
        Input("source"),
        Input("checkpoint", ("tensors.json",)),
        Input("graph", ("layout.json",)),
        Input("adapter"),
    ),
    config=(
        "embedding.mode",
        "embedding.bits",
        "quant.bits",
        "quant.lm_bits",
        "quant.block",
        "quant.lm_block",
        "quant.rules",
        "adapter.mode",
        "adapter.weight",
    ),
    tools=("gguf", "ml_dtypes", "numpy"),
)


def run(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, log: Log) -> Digests:
    """Write embedding.json, and the table itself unless the lm_head's rows are used."""
    from pipeline.checkpoint import open_model
    from pipeline.checkpoint.tied import embedding_mode
    from pipeline.weights.hashed import HashedFile

    layout = json.loads((inputs["graph"] / "layout.json").read_text())
    if embedding_mode(config, layout) == "tied":
        return _finish({"mode": "tied"}, {}, out)
    bits = int((config.get("embedding") or {}).get("bits") or 16)
    name, block = f"embeddings_{'bf16' if bits == 16 else f'int{bits}'}.bin", _block(config, layout, bits)
    with HashedFile(out / name) as file:
        facts = write_table(open_model(config, inputs), layout["embedding"], bits, block, file, log)
    return _finish({"mode": "separate", "file": name, **facts}, {name: file.sha256}, out)


def _finish(facts: Mapping[str, Any], digests: Digests, out: Path) -> Digests:
    (out / "embedding.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return digests


def write_table(
    checkpoint: Checkpoint, embedding: Mapping[str, Any], bits: int, block: int, file: HashedFile, log: Log
) -> dict[str, Any]:
    """Write the rows of `embedding` ("parts", "rows", "columns") at 16, 8 or 4 bits; what embedding.json says of them.

    block: inputs per scale, 0 for one scale per row.
    """
    rows, columns = int(embedding["rows"]), int(embedding["columns"])
    facts: dict[str, Any] = {"bits": bits, "rows": rows, "columns": columns}
    markers = int(embedding.get("markers", 0))
    if markers and bits != 16:
        raise UserError(
            f"embedding.bits={bits}: a table with columns for the encoder or for token types (docs/multimodal.md) is "
            "written in 16 bits",
            "set embedding.bits=16, or where the columns are for positions visual.positions=engine",
        )
    pieces = _pieces(checkpoint, embedding, log, markers)
    if bits == 16:
        _write_bf16(file, pieces)
        return facts
    alpha = _write_codes(file, pieces, bits, block or columns)
    facts |= {"block": block, "weight_offset": 0, "alpha_offset": file.position, "alpha_dtype": "fp32"}
    return facts | {"alpha_size": sum(file.write(part) for part in alpha)}


def _block(config: Mapping[str, Any], layout: Mapping[str, Any], bits: int) -> int:
    if bits not in (16, 8, 4):
        raise UserError(f"embedding.bits={bits}: the engine reads tables of 16, 8 or 4 bits", "use one of them")
    quant = config.get("quant") or {}
    block = int(quant.get("block") or 0) if quant.get("lm_block") is None else int(quant["lm_block"])
    columns = int(layout["embedding"]["columns"])
    if bits != 16 and block and columns % block:
        raise UserError(f"quant.lm_block={block} does not divide the embedding's {columns} columns", "change it")
    return block


def _pieces(checkpoint: Checkpoint, embedding: Mapping[str, Any], log: Log, markers: int = 0) -> Iterator[Array]:
    """The table's rows, some at a time, part after part, as float32 (bfloat16 if the source is and nothing changes
    them: widening a gigabyte to round it again takes ten seconds); behind each `markers` times the part's
    "marker", or 0."""
    import ml_dtypes
    import numpy as np

    total, done = int(embedding["rows"]), 0
    step = max(1, PIECE // int(embedding["columns"]))
    for part in embedding["parts"]:
        first, last = _rows(checkpoint, part)
        for start in range(first, last, step):
            stop = min(last, start + step)
            values = checkpoint[part["tensor"]].read(start, stop)
            if values.dtype != ml_dtypes.bfloat16 or part.get("scale", 1.0) != 1.0:
                values = values.astype(np.float32, copy=False) * np.float32(part.get("scale", 1.0))
            marker = part.get("marker", 0.0)
            yield np.pad(values, ((0, 0), (0, markers)), constant_values=marker) if markers else values
            done += stop - start
            log.progress(done, total, "embedding rows")
    if done != total:
        raise StageFailed(f"the embedding's parts have {done} rows, layout.json says {total}")


def _rows(checkpoint: Checkpoint, part: Mapping[str, Any]) -> tuple[int, int]:
    if part.get("index") is not None or part.get("transpose") or part.get("deinterleave"):
        raise StageFailed(f"the embedding's part {part['tensor']} is not a plain run of rows")
    if part["tensor"] not in checkpoint:
        raise StageFailed(f"the checkpoint has no tensor {part['tensor']}", "check that the model's files are complete")
    first, last = part.get("rows") or (0, checkpoint[part["tensor"]].shape[0])
    return int(first), int(last)


def _write_bf16(file: HashedFile, pieces: Iterator[Array]) -> None:
    import ml_dtypes

    for values in pieces:
        file.write(values.astype(ml_dtypes.bfloat16, copy=False))  # rounds to nearest, ties to even


def _write_codes(file: HashedFile, pieces: Iterator[Array], bits: int, block: int) -> list[Array]:
    """Write packed codes; return float32 [rows, blocks, 2] of (zero, scale) per piece, which come after all codes."""
    alpha = []
    for values in pieces:
        codes, pairs = quantise_rows(values, bits, block)
        file.write(codes if bits == 8 else codes[:, 0::2] << 4 | codes[:, 1::2])
        alpha.append(pairs)
    return alpha


def quantise_rows(values: Array, bits: int, block: int) -> tuple[Array, Array]:
    """(uint8 codes [rows, columns], float32 pairs [rows, columns/block, 2] of zero and scale), asymmetric min/max."""
    import numpy as np

    blocks = values.astype(np.float32, copy=False).reshape(len(values), -1, block)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    scale = (high - low) / np.float32(2**bits - 1)
    safe = np.where(scale > 0, scale, np.float32(1))
    codes = np.rint((blocks - low[..., None]) / safe[..., None]).clip(0, 2**bits - 1).astype(np.uint8)
    zero = low + scale * np.float32(2 ** (bits - 1))
    return codes.reshape(values.shape), np.stack([zero, scale], axis=2)
