"""Which overlay reads a quantised checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.checkpoint import open_checkpoint
from pipeline.checkpoint.quantised import METHODS, quantisation_config
from pipeline.errors import StageFailed
from tests.checkpoint.quantised_files import write_folder


@pytest.mark.parametrize("method", ["quanto", "eetq", "mxfp4", "hqq", "None"])
def test_unknown_methods_are_refused_by_name(tmp_path: Path, method: str) -> None:
    path = write_folder(tmp_path, {"x": np.ones(3, np.float32)}, {"quant_method": method})
    with pytest.raises(StageFailed, match=f"quantised with {method}") as caught:
        open_checkpoint(path)
    assert all(name in caught.value.next_step for name in METHODS)


def test_where_the_config_may_be() -> None:
    assert quantisation_config({}, None) is None
    assert quantisation_config({"quantization_config": {"quant_method": "awq"}}, {"bits": 4}) == {"quant_method": "awq"}
    assert quantisation_config({}, {"bits": 4}) == {"quant_method": "gptq", "bits": 4}
    assert quantisation_config({"compression_config": {"format": "x"}}, None) == {"format": "x"}
