"""Proof that the engine's tokenizer and chat template are Hugging Face's: the same ids, text and prompts."""

from pipeline.tokenizer.parity.check import Difference, Parity, check_parity

__all__ = ["Difference", "Parity", "check_parity"]
