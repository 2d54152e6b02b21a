"""Messages between `Engine` and its child: a JSON head, then arrays as raw bytes. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def send(connection: Connection, head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Sends `head` (JSON) and `arrays` (any dtype; shape and dtype travel in the head)."""
    shapes = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
    connection.send_bytes(json.dumps({"head": head, "arrays": shapes}).encode())
    for array in arrays:
        connection.send_bytes(np.ascontiguousarray(array).tobytes())


def receive(connection: Connection) -> tuple[dict[str, Any], list[Array]]:
    """Blocks for one message. Raises EOFError or OSError when the other side is gone."""
    message = json.loads(connection.recv_bytes())
    arrays = [
        np.frombuffer(connection.recv_bytes(), np.dtype(entry["dtype"])).reshape(entry["shape"])
        for entry in message["arrays"]
    ]
    return message["head"], arrays
