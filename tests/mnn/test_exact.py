"""What `restore` refuses: a rounded value never stays behind unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from pipeline.errors import StageFailed
from pipeline.mnn.converter import Converter
from pipeline.mnn.dump import read_net
from pipeline.mnn.exact import restore
from tests.mnn.handmade import OnnxWriter

LARGE = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """(model, its JSON as dumped, its external file)."""
    folder = tmp_path_factory.mktemp("exact")
    writer = OnnxWriter()
    writer.op("Gather", [writer.constant("table", LARGE), "rows"], "y", axis=0)
    onnx_file = writer.write(folder / "a.onnx", {"rows": (TensorProto.INT32, [1, "n"])}, ["y"])
    converter = Converter(folder / "log")
    converter.onnx_to_mnn(onnx_file, folder / "a.mnn", True)
    converter.mnn_to_json(folder / "a.mnn", folder / "a.json")
    return folder / "a.mnn", folder / "a.json", (folder / "a.mnn.weight").read_bytes()


def _table(net: dict[str, Any]) -> dict[str, Any]:
    return next(op["main"] for op in net["oplists"] if op["name"] == "table")  # type: ignore[no-any-return]


def test_external_constants_come_inline(files: tuple[Path, Path, bytes]) -> None:
    net = read_net(files[1])
    restore(net, files[0].read_bytes(), files[2])
    assert np.array_equal(np.float32(_table(net)["float32s"]).reshape(LARGE.shape), LARGE)


def test_external_constants_can_stay_outside(files: tuple[Path, Path, bytes]) -> None:
    net = read_net(files[1])
    restore(net, files[0].read_bytes(), None)
    assert _table(net)["external"] == [0, LARGE.nbytes]
    assert "float32s" not in _table(net)


def test_a_short_external_file_is_refused(files: tuple[Path, Path, bytes]) -> None:
    with pytest.raises(StageFailed, match="constants of table end beyond"):
        restore(read_net(files[1]), files[0].read_bytes(), files[2][:-4])


def test_json_of_another_model_is_refused(files: tuple[Path, Path, bytes]) -> None:
    net = read_net(files[1])
    net["oplists"].pop()
    with pytest.raises(StageFailed, match="operators"):
        restore(net, files[0].read_bytes(), files[2])


def test_a_float_in_an_unknown_place_is_refused(files: tuple[Path, Path, bytes]) -> None:
    net = read_net(files[1])
    _table(net)["surprise"] = {"deep": [1, 0.123457]}
    with pytest.raises(StageFailed, match=r"Blob\.surprise of table holds floats"):
        restore(net, files[0].read_bytes(), files[2])


def test_an_unknown_external_form_is_refused(files: tuple[Path, Path, bytes]) -> None:
    net = read_net(files[1])
    _table(net)["dataType"] = "DT_INT8"
    with pytest.raises(StageFailed, match="unknown external form"):
        restore(net, files[0].read_bytes(), files[2])
