"""The reference: Hugging Face's own loader and modelling code, in float32.

None of our checkpoint code, with one exception that the report names: checkpoints that transformers reads on a GPU only
(GPTQ, AWQ, …) come through our readers, tensor by tensor, into Hugging Face's modelling code.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from pipeline.graph.quick_accelerate import admitted
from pipeline.graph.thinker import SECTION
from pipeline.graph.towers.loader import loader
from pipeline.verify.gguf_speed import parsed_once


@dataclass(frozen=True)
class Answer:
    """A greedy continuation. ids without the prompt, with the stop token if `stopped`; text without special tokens."""

    ids: list[int]
    text: str
    stopped: bool


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """transformers' tokenizer of a model folder, or of the GGUF file in it."""
    from transformers import AutoTokenizer

    return load(AutoTokenizer, folder, trust_remote_code=trust_remote_code)


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """transformers' config of a folder that has a config.json; of a model that also speaks, of the part that writes."""
    from transformers import AutoConfig

    config = load(AutoConfig, folder, trust_remote_code=trust_remote_code)
    return getattr(config, SECTION, None) or config


def load_model(folder: Path, model: Mapping[str, Any], adapter: Path | None = None, weight: float = 1.0) -> Any:
    """The causal language model in float32, on the CPU, in eval mode, with a LoRA merged by PEFT if there is one.

    model: the recipe's `model` keys. Pickle is read only if `allow_pickle`; torch's loader unpickles weights only.
    adapter: a folder of one adapter, or of several (0/…, 1@0.3/…); weight multiplies all of them.
    """
    import torch

    if origin_of_weights(folder):
        loaded = _dequantised(folder, bool(model.get("trust_remote_code")))
        return (loaded if adapter is None else _merged(loaded, adapter, weight)).eval()
    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": bool(model.get("trust_remote_code"))}
    if not gguf_file(folder):
        options["use_safetensors"] = None if model.get("allow_pickle") else True
        options["config"] = load_config(folder, trust_remote_code=options["trust_remote_code"])
    loaded = load(loader(options.get("config")), folder, **options)
    return (loaded if adapter is None else _merged(loaded, adapter, weight)).eval()


def quantised_with(folder: Path) -> str:
    """The method in a Hugging Face folder's quantization_config ("gptq", "awq", …), or ""."""
    from pipeline.checkpoint.quantised import quantisation_config

    files = [folder / name for name in ("config.json", "quantize_config.json")]
    config, beside = (json.loads(path.read_text("utf-8")) if path.is_file() else None for path in files)
    return str((quantisation_config(config or {}, beside) or {}).get("quant_method", ""))


def origin_of_weights(folder: Path) -> str:
    """What a report must say of the reference's weights, or "" where transformers itself reads the product's."""
    beside = "gptq" if (folder / "gptq").is_dir() and not gguf_file(folder) else ""
    if method := quantised_with(folder) or beside:
        return (
            f"the reference has the {method} weights as this project's readers dequantise them, in Hugging Face's "
            "modelling code: transformers reads such checkpoints on a GPU only"
        )
    return ""


def gguf_file(folder: Path) -> str | None:
    """Name of the GGUF file if the folder is a GGUF source (no config.json beside it)."""
    found = sorted(path.name for path in folder.glob("*.gguf"))
    return found[0] if found and not (folder / "config.json").exists() else None


def sequence_logits(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits of every position of one sequence: float32 [len(ids), vocabulary]."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()
    array: NDArray[np.float32] = logits.numpy()
    return array


def round_matrices(model: Any) -> bool:
    """Round every matrix to fp16, in place, as an fp16 product stores it; whether any value changed.

    A checkpoint in fp16, or in bfloat16 within fp16's range, is not changed. A dequantised GGUF is: code × scale +
    minimum needs more bits than fp16 has, and the product then differs from the float32 reference by that rounding.
    """
    import torch

    changed = False
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                rounded = parameter.half().float()
                changed = changed or not torch.equal(rounded, parameter)
                parameter.copy_(rounded)
    return changed


def bfloat16_table(model: Any) -> bool:
    """Whether the token embedding survives storage as bfloat16 unchanged."""
    import torch

    table = model.get_input_embeddings().weight
    return bool(torch.equal(table.bfloat16().float(), table))


def decode_logits(model: Any, prompt: Sequence[int], continuation: Sequence[int]) -> NDArray[np.float32]:
    """Prefill and cached decode: rows are the prompt's positions, then one per continuation token."""
    import torch

    rows = []
    with torch.inference_mode():
        state = model(input_ids=torch.tensor([list(prompt)]), use_cache=True)
        rows.append(state.logits[0].float().numpy())
        for token in continuation:
            state = model(input_ids=torch.tensor([[token]]), past_key_values=state.past_key_values, use_cache=True)
            rows.append(state.logits[0].float().numpy())
    return np.concatenate(rows)


def greedy(model: Any, tokenizer: Any, prompt: Sequence[int], stop_ids: Sequence[int], limit: int) -> Answer:
    """Plain argmax decoding. `model.generate` would apply the repetition penalty that some models' defaults carry."""
    import torch

    ids: list[int] = []
    step = torch.tensor([list(prompt)])
    past = None
    with torch.inference_mode():
        while len(ids) < limit and not (ids and ids[-1] in stop_ids):
            state = model(input_ids=step, past_key_values=past, use_cache=True)
            past = state.past_key_values
            ids.append(int(state.logits[0, -1].argmax()))
            step = torch.tensor([[ids[-1]]])
    stopped = bool(ids) and ids[-1] in stop_ids
    text = tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=True)
    return Answer(ids, str(text), stopped)


def stop_ids(model_or_config: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the generation config's list and the tokenizer's end of sequence."""
    declared = getattr(getattr(model_or_config, "generation_config", None), "eos_token_id", None)
    listed = declared if isinstance(declared, list | tuple) else [declared]
    return sorted({int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None})


def load(loader: Any, folder: Path, **options: Any) -> Any:
    """`loader.from_pretrained` of a local folder (or of its GGUF file); StageFailed with the reason in one line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    gguf = gguf_file(folder)
    with ExitStack() as stack:
        if gguf:
            stack.enter_context(parsed_once())
            stack.enter_context(admitted())
            options["gguf_file"] = gguf
        try:
            return loader.from_pretrained(str(folder), local_files_only=True, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StageFailed(
                f"Hugging Face cannot load the reference: {_first_line(error)}",
                "check that transformers supports this model, or build with verify=off",
            ) from error


def _dequantised(folder: Path, trust_remote_code: bool) -> Any:
    """transformers' model with the weights as our readers dequantise them."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.checkpoint.open import open_source
    from pipeline.checkpoint.tensor import to_float32

    config = load_config(folder, trust_remote_code=trust_remote_code)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    values = {name: torch.from_numpy(to_float32(tensor.read())) for name, tensor in open_source(folder).items()}
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        kind = type(build(config, trust_remote_code=trust_remote_code))
    loaded, told = kind.from_pretrained(
        None, config=config, state_dict=values, dtype=torch.float32, output_loading_info=True
    )
    if told["missing_keys"]:
        raise StageFailed(f"{folder.name} has no {min(told['missing_keys'])}", "complete the download")
    return loaded


def adapter_folders(folder: Path) -> list[tuple[Path, float]]:
    """(adapter, its weight) in the order in which they apply: `folder` itself, or 0/…, 1@0.3/… in it."""
    if (folder / "adapter_config.json").is_file():
        return [(folder, 1.0)]
    named = [(path.name.partition("@"), path) for path in folder.iterdir() if (path / "adapter_config.json").is_file()]
    return [(path, float(own or 1)) for (_, _, own), path in sorted(named, key=lambda one: int(one[0][0]))]


def _peft_model() -> Any:
    """PEFT's class. On import it asks whether torch is built with `distributed`, and then takes its tensors as there:
    in a worker that has imported transformers quickly (graph/quick_import.py) they are not, nor can they be loaded."""
    import torch

    is_available = torch.distributed.is_available
    if "torch.distributed.tensor" not in sys.modules:
        torch.distributed.is_available = lambda: False
    try:
        from peft import PeftModel
    finally:
        torch.distributed.is_available = is_available
    return PeftModel


def _merged(model: Any, adapter: Path, weight: float) -> Any:
    load = _peft_model().from_pretrained
    folders = adapter_folders(adapter)
    for path, _ in folders:
        _untie(model, path)
    peft: Any = None
    for number, (path, own) in enumerate(folders):
        if peft is None:
            peft = load(model, str(path), adapter_name=str(number))
        else:
            peft.load_adapter(str(path), str(number))
        _scale(peft, str(number), weight * own)
    return peft.merge_and_unload(adapter_names=[str(number) for number in range(len(folders))])


@contextmanager
def adapted(model: Any, adapter: Path, weight: float = 1.0) -> Iterator[Any]:
    """`model` under one LoRA of PEFT, not merged; afterwards it is as before."""
    peft = _peft_model().from_pretrained(model, str(adapter), adapter_name="split")
    _scale(peft, "split", weight)
    try:
        yield peft.eval()
    finally:
        peft.unload()


def _scale(peft: Any, name: str, weight: float) -> None:
    from peft.tuners.lora import LoraLayer

    for module in peft.modules():
        if weight != 1.0 and isinstance(module, LoraLayer):
            module.set_scale(name, weight)


def _untie(model: Any, adapter: Path) -> None:
    """Gives the lm_head a tensor of its own if the adapter changes it or the embedding: PEFT merges into a tied tensor
    for both, and the merged model would not compute what the adapted one does."""
    import torch
    from safetensors import safe_open

    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not table.weight:
        return
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if module in (head, table)}
    with safe_open(str(adapter / "adapter_model.safetensors"), "np") as file:
        touched = any(names & set(key.split(".")) for key in list(file.keys()))
    if touched:
        head.weight = torch.nn.Parameter(table.weight.detach().clone())
        model.config.tie_word_embeddings = False


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
