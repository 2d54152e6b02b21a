"""The weight file: bytes where weights.json says, the same on any number of threads, and refusals by name."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pipeline.errors import StageFailed
from pipeline.weights import plain, writer
from pipeline.weights.hashed import HashedFile
from pipeline.weights.layout import Layout, Linear, Part, Table
from pipeline.weights.matrix import Encoder
from pipeline.weights.plain import Packed
from pipeline.weights.precision import Precision
from tests.weights.helpers import checkpoint, dequantised

RNG = np.random.default_rng(3)
Q = RNG.standard_normal((96, 64)).astype(ml_dtypes.bfloat16)
K = RNG.standard_normal((32, 64)).astype(ml_dtypes.bfloat16)
BIAS = RNG.standard_normal(128).astype(np.float32)
TABLE = RNG.standard_normal((10, 6)).astype(np.float16)
TENSORS = checkpoint(q__weight=Q, k__weight=K, qk__bias=BIAS, wpe=TABLE)
LAYOUT = Layout(
    linears=(
        Linear("qk", 128, 64, (Part("q.weight"), Part("k.weight")), (Part("qk.bias"),)),
        Linear("k", 32, 64, (Part("k.weight"),)),
        Linear("router", 32, 64, (Part("k.weight"),), keep=True),
    ),
    tables=(Table("wpe", 10, 6, (Part("wpe"),)),),
)
PRECISIONS = {"qk": Precision(3, 32), "k": Precision(8, 64, symmetric=True, scale_bits=32), "router": Precision(16)}


def write(path: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"layout": LAYOUT, "precisions": PRECISIONS, "checkpoint": TENSORS, **changes}
    encoder = Encoder(arguments.pop("checkpoint"), plain)
    progress = arguments.pop("progress", lambda weights: None)
    path.unlink(missing_ok=True)
    with HashedFile(path) as file:
        written = writer.write(file, encoder=encoder, progress=progress, **arguments)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return written


def test_every_byte_is_accounted_for(tmp_path: Path) -> None:
    written = write(tmp_path / "w")
    blob = (tmp_path / "w").read_bytes()
    position = 0
    for entry in written["linears"].values():
        assert entry["external"][0] == position
        position += sum(entry["external"][1:])
    assert written["tables"]["wpe"]["external"] == [position, 240]
    assert position + 240 == written["bytes"] == len(blob)
    np.testing.assert_array_equal(np.frombuffer(blob[position:], np.float32).reshape(10, 6), TABLE.astype(np.float32))


def test_codes_stand_for_the_weights(tmp_path: Path) -> None:
    written = write(tmp_path / "w")
    blob = (tmp_path / "w").read_bytes()
    whole = np.concatenate((Q, K)).astype(np.float32)
    for name, weights, steps in (("qk", whole, 7), ("k", K.astype(np.float32), 254)):
        restored = dequantised(blob, written["linears"][name])
        blocks = weights.reshape(-1, PRECISIONS[name].block)
        bound = (blocks.max(1) - blocks.min(1) if steps == 7 else 2 * abs(blocks).max(1)) / steps
        miss = abs(restored - weights).reshape(blocks.shape).max(1)
        assert (miss <= 0.51 * bound + 1e-3).all()
        error = written["linears"][name]["squared_error"]
        assert error == pytest.approx(np.square(restored - weights, dtype=np.float64).sum(), rel=1e-4)
    restored = dequantised(blob, written["linears"]["router"])
    np.testing.assert_array_equal(restored, K.astype(np.float16).astype(np.float32))


def test_bias_follows_the_scales(tmp_path: Path) -> None:
    entry = write(tmp_path / "w")["linears"]["qk"]
    offset, weights, alpha, bias, index = entry["external"]
    assert (bias, index) == (4 * 128, 0)
    assert (tmp_path / "w").read_bytes()[offset + weights + alpha :][:bias] == BIAS.tobytes()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_same_bytes_on_any_threads_and_row_blocks(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precisions = {name: Precision(bits, 32) for name in PRECISIONS}
    first = write(tmp_path / "a", precisions=precisions, threads=1)
    monkeypatch.setattr(writer, "ROW_BLOCK_BYTES", 1)
    second = write(tmp_path / "b", precisions=precisions, threads=4)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first == second


def test_rows_that_end_inside_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = RNG.standard_normal((21, 9)).astype(np.float32)
    layout = Layout((Linear("odd", 21, 9, (Part("odd"),)),))
    monkeypatch.setattr(writer, "ROW_BLOCK_BYTES", 1)
    tensors = checkpoint(odd=weights)
    written = write(tmp_path / "w", layout=layout, precisions={"odd": Precision(3, 9)}, checkpoint=tensors)
    restored = dequantised((tmp_path / "w").read_bytes(), written["linears"]["odd"])
    assert np.abs(restored - weights).max() < 0.51 * np.ptp(weights, axis=1).max() / 7


def test_wide_matrix_has_a_32_bit_header(tmp_path: Path) -> None:
    weights = RNG.standard_normal((65544, 8)).astype(np.float32)
    layout = Layout((Linear("wide", 65544, 8, (Part("wide"),)),))
    tensors = checkpoint(wide=weights)
    written = write(tmp_path / "w", layout=layout, precisions={"wide": Precision(4, 8)}, checkpoint=tensors)
    entry = written["linears"]["wide"]
    assert entry["shape_int32"] and entry["header_bytes"] == 1 + 8 + 1 + 16
    assert (tmp_path / "w").read_bytes()[:10] == b"\x02\x08\x00\x01\x00\x08\x00\x00\x00\x10"
    assert np.abs(dequantised((tmp_path / "w").read_bytes(), entry) - weights).max() < 0.5


def test_header_of_eight_bits_counts_to_zero(tmp_path: Path) -> None:
    write(tmp_path / "w", precisions={name: Precision(8, 64) for name in PRECISIONS})
    assert (tmp_path / "w").read_bytes()[:8] == b"\x02\x80\x00\x40\x00\x00\x80\x81"


def test_progress_ends_at_all_weights(tmp_path: Path) -> None:
    seen: list[int] = []
    write(tmp_path / "w", progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == sum(x.out_features * x.in_features for x in LAYOUT.linears)


@pytest.mark.parametrize(
    ("linear", "message"),
    [
        (Linear("x", 8, 64, (Part("gone"),)), r"'x' needs the tensor 'gone'"),
        (Linear("x", 8, 32, (Part("k.weight", rows=(0, 8)),)), r"'k.weight' has rows of shape \(64,\); 'x' needs 32"),
        (Linear("x", 8, 64, (Part("k.weight"),)), r"'x' should have 8 rows, but k.weight hold 32"),
        (Linear("x", 32, 64, (Part("k.weight"),), (Part("qk.bias"),)), r"'x.bias' should have 32 rows"),
    ],
)
def test_layout_and_checkpoint_must_agree(linear: Linear, message: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=message):
        write(tmp_path / "w", layout=Layout((linear,)), precisions={"x": Precision(4, 32)})


def test_codes_of_the_wrong_size_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets are decided beforehand, and the graph is linked with them."""
    rows = Encoder.rows

    def short(encoder: Encoder, *arguments: Any) -> Packed:
        packed = rows(encoder, *arguments)
        return replace(packed, codes=packed.codes[:-1])

    monkeypatch.setattr(Encoder, "rows", short)
    with pytest.raises(RuntimeError, match=r"has \d+ bytes, not \d+, before k"):
        write(tmp_path / "w")


def test_the_first_failure_in_the_files_order_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread fails first."""
    bad = {name: np.full((rows, 64), np.nan, np.float32) for name, rows in (("q__weight", 96), ("k__weight", 32))}
    rows = Encoder.rows

    def late(encoder: Encoder, linear: Linear, *arguments: Any) -> Packed:
        time.sleep(0.2 if linear.name == "qk" else 0)
        return rows(encoder, linear, *arguments)

    monkeypatch.setattr(Encoder, "rows", late)
    with pytest.raises(StageFailed, match=r"'q\.weight, k\.weight' holds NaN"):
        write(tmp_path / "w", checkpoint={**TENSORS, **checkpoint(**bad)})


def test_not_finite_bias_and_table_are_refused(tmp_path: Path) -> None:
    bad = BIAS.copy()
    bad[7] = np.nan
    with pytest.raises(StageFailed, match=r"'qk\.bias' holds NaN"):
        write(tmp_path / "w", checkpoint={**TENSORS, **checkpoint(qk__bias=bad)})
    with pytest.raises(StageFailed, match="'wpe' holds NaN"):
        write(tmp_path / "w", checkpoint={**TENSORS, **checkpoint(wpe=TABLE * np.float16(np.inf))})
