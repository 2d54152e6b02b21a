"""A declarative build system for on-device LLM artefacts. This package knows nothing of doit."""
