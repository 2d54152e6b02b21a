"""MNN's model converter, one child process and one temporary working folder per conversion.

The converter always claims success through its exit code, drops a scratch file into its working folder, and ignores
flags that it does not know; so the exit, the output file and the success line in the log are all checked here.
It is reached through the wheel's native module `_tools`: the wheel's Python wrapper around it installs packages.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StageFailed, UserError

_WHEEL_MODULE = "_tools"
# Only the folder of the native module is put on the path: site's start-up takes longer than a small conversion.
_WHEEL_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); import _tools; _tools.mnnconvert(sys.argv)"
# "Converted Success!" closes a conversion to a model; the two JSON directions say "has convert to".
_SUCCESS_LINES = ("Converted Success!", "has convert to")
# The pass says so, leaves the graph as it was, and the conversion succeeds; RoPE ops then fail in the first forward.
_NO_C4 = "unable to build a valid C4 RoPE fallback graph"
_LAST_LINES = 6


@dataclass(frozen=True)
class Converter:
    """Runs conversions. `program`: path of a native MNNConvert, or empty for the installed wheel's own converter.

    `log`: file to which every conversion's output is appended. `timeout`: seconds for one conversion.
    Raises UserError when `program` names no executable file.
    """

    log: Path
    program: str = ""
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.program and not Path(self.program).is_file():
            raise UserError(
                f"target.mnnconvert: no such file: {self.program}",
                "give the path of an MNNConvert executable, or leave the key out to use the wheel's converter",
            )

    def onnx_to_mnn(self, onnx: Path, mnn: Path, fuse_c4: bool) -> None:
        """Writes `mnn`, and `<mnn>.weight` with the constants of more than 1,024 elements. Unknown ops become Extra."""
        flags = ["--allowCustomOp", "--saveExternalData", _c4_flag(fuse_c4)]
        self._convert("ONNX", onnx, mnn, ["--MNNModel", str(mnn.resolve()), *flags])

    def mnn_to_json(self, mnn: Path, json: Path) -> None:
        """Dumps `mnn`. Floats come out rounded to six decimals: see `exact.py`."""
        self._convert("MNN", mnn, json, ["--JsonFile", str(json.resolve())])

    def json_to_mnn(self, json: Path, mnn: Path, fuse_c4: bool) -> None:
        """The inverse of `mnn_to_json`; exact for floats written with all their digits."""
        self._convert("JSON", json, mnn, ["--MNNModel", str(mnn.resolve()), _c4_flag(fuse_c4)])

    def optimise(self, mnn: Path, optimised: Path, fuse_c4: bool) -> None:
        """Runs the converter's post passes (among them the C4 fusion, without which RoPE ops do not run)."""
        flags = ["--optimizeLevel=1", _c4_flag(fuse_c4)]
        self._convert("MNN", mnn, optimised, ["--MNNModel", str(optimised.resolve()), *flags])

    def _convert(self, framework: str, model: Path, output: Path, flags: Sequence[str]) -> None:
        if not model.is_file():
            raise StageFailed(f"converter: input file {model.name} is missing")
        output.unlink(missing_ok=True)
        # The default replaces erf-GELU by an approximation with an error of 5e-4.
        arguments = ["-f", framework, "--modelFile", str(model.resolve()), *flags, "--useGeluApproximation=0"]
        exit_code, text = self._run(arguments)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ MNNConvert {' '.join(arguments)}\n{text}\n")
        problem = _problem(exit_code, text, output)
        if problem:
            raise StageFailed(
                f"converter: {framework} {model.name} → {output.name}: {problem}: {_tail(text)}", f"see {self.log}"
            )

    def _run(self, arguments: Sequence[str]) -> tuple[int, str]:
        command = [self.program] if self.program else _wheel_command()
        with tempfile.TemporaryDirectory(prefix="mnnconvert-") as scratch:
            try:
                done = subprocess.run(
                    [*command, *arguments],
                    cwd=scratch,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise StageFailed(
                    f"converter: stopped after {self.timeout:g} s without an end",
                    f"see the command's arguments in {self.log}",
                ) from None
            except OSError as error:
                raise UserError(
                    f"target.mnnconvert: {self.program or sys.executable} cannot be run: {error.strerror}",
                    "give the path of an MNNConvert executable",
                ) from None
        return done.returncode, done.stdout.decode("utf-8", "replace")


def _wheel_command() -> list[str]:
    found = importlib.util.find_spec(_WHEEL_MODULE)
    if found is None or found.origin is None:
        raise StageFailed("converter: MNN's wheel is not installed", "pip install MNN")
    return [sys.executable, "-I", "-S", "-c", _WHEEL_PROGRAM, str(Path(found.origin).parent)]


def _c4_flag(fuse_c4: bool) -> str:
    return f"--transformerFuseC4={int(fuse_c4)}"


def _problem(exit_code: int, text: str, output: Path) -> str:
    """What went wrong, in words, or the empty string."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    if exit_code > 0:
        return f"exit code {exit_code}"
    if _NO_C4 in text:
        return "the C4 pass found no valid graph, and the engine would refuse this one"
    if "Converted Failed" in text or not any(line in text for line in _SUCCESS_LINES):
        return "the converter reported no success"
    if not output.is_file() or output.stat().st_size == 0:
        return "no output file was written"
    return ""


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "(it printed nothing)"
