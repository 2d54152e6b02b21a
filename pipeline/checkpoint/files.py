"""Reading small JSON files of a model with one clear line when they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed


def read_json(path: Path) -> Any:
    """A JSON file's content; StageFailed when it is not there, or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StageFailed(f"{path.name} is not there", "complete the download") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise StageFailed(f"{path.name} is not JSON ({error})", "download or copy it again") from error
