"""Checkpoints: lazily read tensors under Hugging Face names, from safetensors and GGUF; no torch."""

from pipeline.checkpoint.open import open_checkpoint, open_model
from pipeline.checkpoint.tensor import Checkpoint, LazyTensor, QuantisedTensor

__all__ = ["Checkpoint", "LazyTensor", "QuantisedTensor", "open_checkpoint", "open_model"]
