"""The converter's failures, all of which it reports as success or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import StageFailed, UserError
from pipeline.mnn import converter as converter_module
from pipeline.mnn.converter import Converter


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    return Converter(tmp_path / "converter.log", timeout=60)


def _write_onnx(path: Path, kind: str = "Erf", domain: str = "") -> Path:
    node = helper.make_node(kind, ["x"], ["y"], name="only", domain=domain)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "graph", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("LlmExporter", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    onnx.save(model, path)
    return path


def _script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_four_steps(converter: Converter, tmp_path: Path) -> None:
    onnx_file = _write_onnx(tmp_path / "a.onnx")
    converter.onnx_to_mnn(onnx_file, tmp_path / "a.mnn", True)
    converter.mnn_to_json(tmp_path / "a.mnn", tmp_path / "a.json")
    converter.json_to_mnn(tmp_path / "a.json", tmp_path / "b.mnn", True)
    converter.optimise(tmp_path / "b.mnn", tmp_path / "c.mnn", True)
    assert (tmp_path / "c.mnn").stat().st_size > 0
    assert '"ERF"' in (tmp_path / "a.json").read_text()


def test_unknown_operators_become_extra(converter: Converter, tmp_path: Path) -> None:
    converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx", "FakeLinear", "LlmExporter"), tmp_path / "a.mnn", True)
    converter.mnn_to_json(tmp_path / "a.mnn", tmp_path / "a.json")
    assert '"type": "FakeLinear"' in (tmp_path / "a.json").read_text()


def test_every_command_turns_the_gelu_approximation_off_and_is_logged(converter: Converter, tmp_path: Path) -> None:
    converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "a.mnn", False)
    log = converter.log.read_text()
    assert "--useGeluApproximation=0" in log
    assert "--transformerFuseC4=0" in log
    assert "Converted Success!" in log


def test_nothing_is_dropped_into_the_current_folder(
    converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "a.mnn", True)
    assert os.listdir(here) == []


def test_a_file_that_is_no_onnx_fails(converter: Converter, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(StageFailed, match=r"converter: ONNX bad\.onnx"):
        converter.onnx_to_mnn(tmp_path / "bad.onnx", tmp_path / "a.mnn", True)
    assert not (tmp_path / "a.mnn").exists()


def test_an_operator_without_a_kernel_fails_in_the_last_step(converter: Converter, tmp_path: Path) -> None:
    converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx", "FakeLinear", "LlmExporter"), tmp_path / "a.mnn", True)
    with pytest.raises(StageFailed, match="FakeLinear"):
        converter.optimise(tmp_path / "a.mnn", tmp_path / "b.mnn", True)


def test_a_missing_input_fails(converter: Converter, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"nothing\.onnx is missing"):
        converter.onnx_to_mnn(tmp_path / "nothing.onnx", tmp_path / "a.mnn", True)


def test_an_output_folder_that_does_not_exist_fails(converter: Converter, tmp_path: Path) -> None:
    """The converter says "Converted Success!" here and writes nothing."""
    with pytest.raises(StageFailed, match=r"no output file|killed|no success"):
        converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "nowhere" / "a.mnn", True)


def test_an_old_output_does_not_pass_for_a_new_one(converter: Converter, tmp_path: Path) -> None:
    (tmp_path / "a.mnn").write_bytes(b"left over")
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(StageFailed):
        converter.onnx_to_mnn(tmp_path / "bad.onnx", tmp_path / "a.mnn", True)
    assert not (tmp_path / "a.mnn").exists()


def test_a_wrong_program_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target\.mnnconvert: no such file"):
        Converter(tmp_path / "log", program=str(tmp_path / "MNNConvert"))


def test_a_program_that_cannot_run_is_the_users_error(tmp_path: Path) -> None:
    program = tmp_path / "MNNConvert"
    program.write_text("not executable")
    with pytest.raises(UserError, match="cannot be run"):
        Converter(tmp_path / "log", str(program)).onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "b", True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo broken; exit 3", "exit code 3.*broken"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("kill -KILL $$", r"killed by SIGKILL \(out of memory\?\)"),
        ("true", r"no success.*it printed nothing"),
        ("echo Converted Success!", "no output file was written"),
    ],
)
def test_how_a_program_of_ones_own_can_fail(tmp_path: Path, body: str, expected: str) -> None:
    converter = Converter(tmp_path / "log", _script(tmp_path / "MNNConvert", body))
    with pytest.raises(StageFailed, match=expected):
        converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "a.mnn", True)


def test_a_program_of_ones_own_is_used(tmp_path: Path) -> None:
    body = 'for last; do shift; case "$previous" in --MNNModel) echo made > "$last";; esac; previous=$last; done\n'
    converter = Converter(tmp_path / "log", _script(tmp_path / "MNNConvert", body + "echo Converted Success!"))
    converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "a.mnn", True)
    assert (tmp_path / "a.mnn").read_text() == "made\n"


def test_a_hang_ends_after_the_time_limit(tmp_path: Path) -> None:
    converter = Converter(tmp_path / "log", _script(tmp_path / "MNNConvert", "exec sleep 30"), timeout=0.3)
    with pytest.raises(StageFailed, match=r"stopped after 0\.3 s"):
        converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "a.mnn", True)


def test_the_erf_gelu_stays_exact(tmp_path: Path) -> None:
    """With the converter's default the pattern below becomes one approximated GELU."""
    nodes = [
        helper.make_node("Div", ["x", "root2"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["shifted"]),
        helper.make_node("Mul", ["x", "shifted"], ["twice"]),
        helper.make_node("Mul", ["twice", "half"], ["y"]),
    ]
    constants = {"root2": 2**0.5, "one": 1.0, "half": 0.5}
    initialisers = [onnx.numpy_helper.from_array(np.array(v, np.float32), k) for k, v in constants.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "gelu.onnx")
    converter = Converter(tmp_path / "log")
    converter.onnx_to_mnn(tmp_path / "gelu.onnx", tmp_path / "gelu.mnn", True)
    converter.mnn_to_json(tmp_path / "gelu.mnn", tmp_path / "gelu.json")
    text = (tmp_path / "gelu.json").read_text()
    assert '"ERF"' in text or '"GELU_STANDARD"' in text
    assert '"GELU"' not in text


def test_the_wheels_converter_imports_nothing_of_the_package_around_it(
    converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MNN.tools` installs a telemetry package when it is imported; an audit hook in the child tells its imports."""
    seen = tmp_path / "imports"
    hook = (
        "import sys\n"
        f"note = open({str(seen)!r}, 'a', buffering=1)\n"
        "sys.addaudithook(lambda event, data: event == 'import' and note.write(data[0] + chr(10)))\n"
    )
    plain = converter_module._wheel_command()
    program = plain.index("-c") + 1
    spied = [*plain[:program], hook + plain[program], *plain[program + 1 :]]
    monkeypatch.setattr(converter_module, "_wheel_command", lambda: spied)
    converter.onnx_to_mnn(_write_onnx(tmp_path / "a.onnx"), tmp_path / "a.mnn", True)
    imported = set(seen.read_text().split())
    assert "_tools" in imported
    assert not {name for name in imported if name.split(".")[0] in ("MNN", "subprocess", "pip")}
