"""Chat templates: parsed and rendered in jinja2's sandbox, rewritten where the engine's Jinja would differ."""

from pipeline.tokenizer.template.environment import reference_render
from pipeline.tokenizer.template.rewrite import EngineTemplate, for_engine

__all__ = ["EngineTemplate", "for_engine", "reference_render"]
