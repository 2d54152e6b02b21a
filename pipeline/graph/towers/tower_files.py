"""Names of files, for those that must not import torch."""

from __future__ import annotations

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
