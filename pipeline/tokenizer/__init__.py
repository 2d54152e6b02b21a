"""Tokenizers and chat templates for the engine: written in its formats, and proved equal to Hugging Face's."""
