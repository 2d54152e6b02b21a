"""The embedding stage: tables decoded as the engine's source says they are read, against the model's own rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.build.store import hash_file
from pipeline.errors import StageFailed, UserError
from pipeline.stages.embedding import quantise_rows, run
from tests.checkpoint.conftest import KeptLog

ROWS, COLUMNS = 300, 64


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3)) * 0.1


@pytest.fixture
def inputs(table: torch.Tensor, tmp_path: Path) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in ("source", "graph", "checkpoint")}
    for folder in folders.values():
        folder.mkdir()
    save_file({"model.embed_tokens.weight": table}, str(folders["source"] / "model.safetensors"))
    layout(folders)
    return folders


def layout(folders: dict[str, Path], tied: bool = True, **part: Any) -> None:
    parts = [{"tensor": "model.embed_tokens.weight", "rows": None, "index": None, "transpose": False,
              "deinterleave": None, "scale": 1.0, **part}]  # fmt: skip
    head = {"name": "lm_head", "out_features": ROWS, "in_features": COLUMNS, "keep": False}
    document = {"tied": tied, "lm_head": "lm_head", "linears": [head],
                "embedding": {"rows": ROWS, "columns": COLUMNS, "parts": parts}}  # fmt: skip
    (folders["graph"] / "layout.json").write_text(json.dumps(document))


def build(inputs: dict[str, Path], out: Path, **embedding: Any) -> dict[str, Any]:
    out.mkdir()
    config = {
        "embedding": {"mode": "separate", "bits": 16, **embedding},
        "quant": {"bits": 4, "block": 32, "lm_bits": 8},
    }
    digests = run(config, inputs, out, KeptLog())
    assert digests == {path.name: hash_file(path) for path in out.glob("*.bin")}
    return dict(json.loads((out / "embedding.json").read_text()))


def test_bf16_rows_are_torchs_rounding(inputs: dict[str, Path], table: torch.Tensor, tmp_path: Path) -> None:
    facts = build(inputs, tmp_path / "out")
    assert facts == {"mode": "separate", "file": "embeddings_bf16.bin", "bits": 16, "rows": ROWS, "columns": COLUMNS}
    stored = np.fromfile(tmp_path / "out" / "embeddings_bf16.bin", "<u2")
    np.testing.assert_array_equal(stored, table.to(torch.bfloat16).view(torch.uint16).numpy().ravel())


def test_halfway_values_go_to_the_even_neighbour(inputs: dict[str, Path], tmp_path: Path) -> None:
    bits = np.zeros((ROWS, COLUMNS), np.uint32)
    bits[0, :4] = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF]
    save_file({"model.embed_tokens.weight": torch.from_numpy(bits.view(np.float32))},
              str(inputs["source"] / "model.safetensors"))  # fmt: skip
    build(inputs, tmp_path / "out")
    stored = np.fromfile(tmp_path / "out" / "embeddings_bf16.bin", "<u2")
    assert [hex(value) for value in stored[:4]] == ["0x3f80", "0x3f82", "0x3f81", "0x3f81"]


@pytest.mark.parametrize("markers", [0, 3])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_table_in_bfloat16(
    inputs: dict[str, Path], table: torch.Tensor, tmp_path: Path, markers: int, scale: float
) -> None:
    """Unchanged rows keep their bits, subnormal ones too; scaled ones are rounded once, from float32."""
    short = (table * torch.logspace(-38, 0, ROWS)[:, None]).to(torch.bfloat16)
    save_file({"model.embed_tokens.weight": short}, str(inputs["source"] / "model.safetensors"))
    layout(inputs, scale=scale)
    document = json.loads((inputs["graph"] / "layout.json").read_text())
    document["embedding"]["markers"] = markers
    (inputs["graph"] / "layout.json").write_text(json.dumps(document))
    build(inputs, tmp_path / "out")
    stored = np.fromfile(tmp_path / "out" / "embeddings_bf16.bin", "<u2").reshape(ROWS, COLUMNS + markers)
    expected = short if scale == 1 else (short.float() * scale).to(torch.bfloat16)
    np.testing.assert_array_equal(stored[:, :COLUMNS], expected.view(torch.uint16).numpy())
    assert not stored[:, COLUMNS:].any()


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_of_a_table_in_bfloat16_are_those_of_its_float32(
    inputs: dict[str, Path], table: torch.Tensor, tmp_path: Path, bits: int
) -> None:
    files = []
    for name, values in {"short": table.to(torch.bfloat16), "wide": table.to(torch.bfloat16).float()}.items():
        save_file({"model.embed_tokens.weight": values}, str(inputs["source"] / "model.safetensors"))
        build(inputs, tmp_path / name, bits=bits)
        files.append((tmp_path / name / f"embeddings_int{bits}.bin").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_table(inputs: dict[str, Path], table: torch.Tensor, tmp_path: Path, bits: int) -> None:
    facts = build(inputs, tmp_path / "out", bits=bits)
    assert facts["file"] == f"embeddings_int{bits}.bin" and facts["weight_offset"] == 0
    assert facts["alpha_offset"] == ROWS * COLUMNS * bits // 8 and facts["alpha_dtype"] == "fp32"
    data = (tmp_path / "out" / facts["file"]).read_bytes()
    assert len(data) == facts["alpha_offset"] + facts["alpha_size"] and facts["alpha_size"] == ROWS * 2 * 2 * 4
    decoded = decode(data, facts)
    spread = table.numpy().reshape(ROWS, -1, 32)
    step = (spread.max(2) - spread.min(2)) / (2**bits - 1)
    assert (np.abs(decoded - table.numpy()).reshape(ROWS, -1, 32) <= step[..., None] * 0.5001).all()


def decode(data: bytes, facts: dict[str, Any]) -> np.ndarray:
    """Rows as MNN's diskembedding.cpp reads them: high nibble first, alpha as (zero, scale) pairs."""
    packed = np.frombuffer(data, np.uint8, facts["alpha_offset"])
    if facts["bits"] == 4:
        packed = np.stack([packed >> 4, packed & 15], 1).ravel()
    alpha = np.frombuffer(data, "<f4", offset=facts["alpha_offset"]).reshape(ROWS, -1, 1, 2)
    signed = packed.reshape(ROWS, -1, facts["block"]).astype(np.float32) - 2 ** (facts["bits"] - 1)
    return np.asarray(signed * alpha[..., 1] + alpha[..., 0]).reshape(ROWS, COLUMNS)


def test_constant_rows() -> None:
    codes, pairs = quantise_rows(np.full((2, 32), 0.25, np.float32), 8, 32)
    assert ((codes.astype(np.float32) - 128) * pairs[..., 1] + pairs[..., 0] == 0.25).all()


def test_scale_of_the_part(inputs: dict[str, Path], table: torch.Tensor, tmp_path: Path) -> None:
    layout(inputs, scale=8.0)
    build(inputs, tmp_path / "out")
    stored = np.fromfile(tmp_path / "out" / "embeddings_bf16.bin", "<u2")
    np.testing.assert_array_equal(stored, (table * 8).to(torch.bfloat16).view(torch.uint16).numpy().ravel())


def test_tied_writes_no_table(inputs: dict[str, Path], tmp_path: Path) -> None:
    for mode in ("tied", "auto"):
        assert build(inputs, tmp_path / mode, mode=mode) == {"mode": "tied"}
        assert [path.name for path in (tmp_path / mode).iterdir()] == ["embedding.json"]


def test_auto_on_an_untied_model(inputs: dict[str, Path], tmp_path: Path) -> None:
    layout(inputs, tied=False)
    assert build(inputs, tmp_path / "out", mode="auto")["mode"] == "separate"
    with pytest.raises(UserError, match="an lm_head of its own"):
        build(inputs, tmp_path / "out2", mode="tied")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"tensor": "gone"}, "no tensor gone"),
        ({"transpose": True}, "not a plain run of rows"),
        ({"rows": [0, 200]}, "200 rows, layout.json says 300"),
    ],
)
def test_layout_that_does_not_fit(inputs: dict[str, Path], tmp_path: Path, part: dict[str, Any], message: str) -> None:
    layout(inputs, **part)
    with pytest.raises(StageFailed, match=message):
        build(inputs, tmp_path / "out")


def test_widths_that_the_engine_cannot_read(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embedding\.bits=6"):
        build(inputs, tmp_path / "out", bits=6)


def test_block_that_does_not_divide(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = {"embedding": {"mode": "separate", "bits": 8}, "quant": {"bits": 4, "block": 48}}
    with pytest.raises(UserError, match="does not divide the embedding's 64 columns"):
        run(config, inputs, out, KeptLog())
