"""The Hugging Face model of a config: parameters on the meta device, buffers real, RoPE as tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, PretrainedConfig
from transformers.integrations.moe import ExpertsInterface
from transformers.modeling_utils import AttentionInterface

from pipeline.errors import UserError
from pipeline.graph import hooks
from pipeline.graph.attention import IMPLEMENTATION, attention
from pipeline.graph.experts import experts
from pipeline.graph.rotary import RotaryTable
from pipeline.graph.towers.loader import loader

Values = Callable[[str], torch.Tensor]
Model = Any  # a PreTrainedModel, whose methods and attributes are mostly untyped


def load_config(folder: Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config of a Hugging Face folder. UserError when transformers does not know the model type."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "custom code" in str(error):
            raise UserError(
                "the model comes with Python code of its own, which would run on this machine",
                "read it, and set model.trust_remote_code=true if you trust it",
            ) from None
        raise UserError(f"transformers cannot read the model's config.json: {_first_line(error)}") from None
    return config


def instantiate(config: PretrainedConfig, trust_remote_code: bool = False) -> Model:
    """The model of a config on the meta device, with placeholders for attention and experts.

    Raises UserError when transformers cannot build it.
    """
    AttentionInterface.register(IMPLEMENTATION, attention)
    ExpertsInterface.register(IMPLEMENTATION, experts)
    try:
        model = build(loader(config), config, trust_remote_code)
    except (ValueError, KeyError, ImportError) as error:
        raise UserError(f"transformers cannot build a {config.model_type} model: {_first_line(error)}") from None
    _use_placeholders(model)
    hooks.attach(model)
    for module in model.modules():  # looks at the ids, of which a trace knows only the shape
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = lambda *_: None
    return model


def build(auto: Any, config: PretrainedConfig, trust_remote_code: bool) -> Model:
    """The model of a config on the meta device, by one of transformers' AutoModel classes; raises what that raises."""
    with torch.device("meta"), _WithoutRandomNumbers():
        model: Model = auto.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return model.eval()


class _WithoutRandomNumbers(TorchFunctionMode):
    """Initial weights have no values on the meta device; torch's code for them there only takes time (and sympy)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensor = (kwargs or {}).get("tensor", args[0] if args else None)
        if getattr(func, "__module__", "") == torch.nn.init.__name__ and tensor is not None and tensor.is_meta:
            return tensor
        return func(*args, **(kwargs or {}))


def prepare(model: Model, values: Values) -> None:
    """Gives buffers their true values and turns rotary embeddings into tables.

    values: reads a small tensor of the checkpoint by its name in the model (KeyError if there is none).
    Raises UserError for a buffer that cannot be computed.
    """
    fill_buffers(model, values)
    tabulate_rotary(model, positions(model.config))


def positions(config: PretrainedConfig) -> int:
    """The number of positions that the config allows."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 32768)


def _use_placeholders(model: Model) -> None:
    # Set on the configs, not through from_config: that refuses implementations that a model does not list, and some
    # models that list none run through the interface all the same. Those that do not are found when they are traced.
    text = model.config.get_text_config()
    if getattr(text, "alibi", False) or getattr(text, "use_alibi", False):
        raise UserError(
            "the model adds a bias by distance to its attention scores (ALiBi), for which the engine's attention op "
            "has no place"
        )
    # Models from before the interface have torch's attention at best; the trace catches that one too.
    kind = IMPLEMENTATION if model._supports_attention_backend else "sdpa"
    if kind == "sdpa" and getattr(text, "sliding_window", None):
        raise UserError(f"{type(model).__name__} does not say which of its layers have a sliding window")
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        config._attn_implementation_internal = kind
        config._experts_implementation_internal = IMPLEMENTATION


def fill_buffers(model: Model, values: Values) -> None:
    """Gives buffers their values: by the model's own initialisation, or out of the checkpoint."""
    for path, module in model.named_modules():
        names = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        if not names:
            continue
        for name in names:
            module._buffers[name] = _undefined(module._buffers[name])
        with torch.no_grad():
            model._init_weights(module)
        for name in names:
            full = f"{path}.{name}" if path else name
            buffer = module._buffers[name]
            assert buffer is not None
            if name not in module._non_persistent_buffers_set:
                module._buffers[name] = _stored(values, full, buffer)
            elif not _is_defined(buffer):
                module._buffers[name] = _recomputed(model, module, name, full)


def _undefined(buffer: torch.Tensor | None) -> torch.Tensor:
    assert buffer is not None
    if buffer.dtype.is_floating_point:
        return torch.full(buffer.shape, torch.nan, dtype=buffer.dtype)
    return torch.full(buffer.shape, torch.iinfo(buffer.dtype).min if buffer.dtype != torch.bool else 0).to(buffer.dtype)


def _is_defined(buffer: torch.Tensor) -> bool:
    if buffer.dtype.is_floating_point:
        return not bool(buffer.isnan().any())
    return buffer.dtype != torch.bool and not bool((buffer == torch.iinfo(buffer.dtype).min).any())


def _stored(values: Values, name: str, buffer: torch.Tensor) -> torch.Tensor:
    try:
        return values(name).to(buffer.dtype)
    except KeyError:
        if _is_defined(buffer):
            return buffer
        raise UserError(f"the checkpoint has no values for the model's buffer {name}") from None


def _recomputed(model: Model, module: torch.nn.Module, name: str, full: str) -> torch.Tensor:
    """A buffer's value out of a second instance of its module, where that can be built from the config alone."""
    config = getattr(module, "config", None) or model.config
    try:
        fresh: Any = type(module)(config=config)
        return fresh._buffers[name].clone()  # type: ignore[no-any-return]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"the model's buffer {full} ({type(module).__name__}) cannot be computed without its weights: {error}"
        ) from None


def tabulate_rotary(model: Model, count: int) -> None:
    """Puts tables of `count` positions in the place of every rotary embedding module."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if any(key.endswith("inv_freq") for key in child._buffers):
                setattr(module, name, RotaryTable(child, count))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
