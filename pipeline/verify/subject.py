"""What the gate judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.verify import metrics


@dataclass(frozen=True)
class Subject:
    """What is judged. folder: the product as it will be shipped. reference: reference.json, parsed.

    accept_tokenizer_limits: texts that the target's tokenizer format cuts otherwise are listed, not refused.
    """

    folder: Path
    bits: int
    limits: Mapping[str, Any]
    threads: int
    max_new_tokens: int
    reference: Mapping[str, Any]
    reference_folder: Path
    separate_table: bool = False
    accept_tokenizer_limits: bool = False

    def logits(self) -> metrics.Logits | None:
        """float32 [sequences, length, vocabulary] of the reference, memory mapped; None if the machine had no room."""
        name = self.reference["logits"]
        return None if name is None else np.load(self.reference_folder / name, mmap_mode="r")
