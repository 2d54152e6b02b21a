"""A tiny Qwen3 written node by node as ONNX with placeholders, and a product made of it: no other room is needed.

The truth is Hugging Face's Qwen3ForCausalLM with the same random weights (bfloat16 values, exact in fp16).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.mnn.converter import Converter
from pipeline.mnn.link import link
from pipeline.mnn.skeleton import build_skeleton

POSITIONS = 512
STOP = 257
SPECIALS = {256: "<|im_start|>", STOP: "<|im_end|>"}
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_config() -> Qwen3Config:
    """Small sizes that the C4 layout likes (multiples of 4), theta large enough that six decimals would not do."""
    return Qwen3Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-7,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


def tiny_model(seed: int = 0) -> Qwen3ForCausalLM:
    """Random weights, rounded to bfloat16, in float32."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(tiny_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.3)
            parameter.copy_((values + (0 if parameter.dim() > 1 else 1)).to(torch.bfloat16))
    return model


class OnnxWriter:
    """Collects nodes and initialisers; each method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.initialisers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def placeholder(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        node = helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], domain="LlmExporter")
        # `name` is a parameter of make_node, so every attribute is added by hand.
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)

    def linear(self, source: str, name: str, shape: Sequence[int], rank: int = 3) -> str:
        attributes = {"name": name, "out_features": shape[0], "in_features": shape[1], "rank": rank}
        self.placeholder("FakeLinear", [source], [f"{name}.out"], **attributes)
        return f"{name}.out"

    def rms_norm(self, source: str, name: str, gamma: Any, epsilon: float) -> str:
        square = self.op("Pow", [source, self.constant(f"{name}.two", 2.0)], f"{name}.square")
        mean = self.op("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        shifted = self.op("Add", [mean, self.constant(f"{name}.epsilon", epsilon)], f"{name}.shifted")
        root = self.op("Sqrt", [shifted], f"{name}.root")
        inverse = self.op("Div", [self.constant(f"{name}.one", 1.0), root], f"{name}.inverse")
        normal = self.op("Mul", [source, inverse], f"{name}.normal")
        return self.op("Mul", [self.constant(f"{name}.gamma", gamma), normal], f"{name}.out")

    def reshape(self, source: str, name: str, dims: Sequence[int]) -> str:
        return self.op("Reshape", [source, self.constant(f"{name}.dims", dims, np.int64)], f"{name}.reshaped")

    def write(self, path: Path, inputs: dict[str, tuple[int, Sequence[Any]]], outputs: Sequence[str]) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info(name, kind, list(dims)) for name, (kind, dims) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initialisers,
        )
        opsets = [helper.make_opsetid("", 15), helper.make_opsetid("LlmExporter", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 8
        onnx.save(model, path)
        return path


def write_onnx(model: Qwen3ForCausalLM, path: Path, rope: bool = True) -> Path:
    """The model's graph with placeholders for linears, attention and (rope=True) RoPE."""
    writer, config = OnnxWriter(), model.config
    cosine, sine = _rope_rows(writer, model)
    hidden = writer.reshape("input_ids", "embedded", [1, -1, config.hidden_size])
    for number, layer in enumerate(model.model.layers):
        hidden = _layer(writer, hidden, number, layer, config, cosine, sine)
    ends = writer.constant("end", [2**31 - 1], np.int64), writer.constant("axis", [1], np.int64)
    start = writer.op("Cast", ["logits_index"], "start", to=TensorProto.INT64)
    last = writer.op("Slice", [hidden, start, *ends], "last")
    last = writer.rms_norm(last, "model.norm", model.model.norm.weight.detach(), config.rms_norm_eps)
    writer.op("Identity", [writer.linear(last, "lm_head", list(model.lm_head.weight.shape))], "logits")
    inputs = {
        "input_ids": (TensorProto.FLOAT, ["n", 1, config.hidden_size]),
        "attention_mask": (TensorProto.FLOAT, [1, 1, "n", "n"]),
        "position_ids": (TensorProto.INT32, [1, "n"]),
        "logits_index": (TensorProto.INT32, [1]),
    }
    return writer.write(path, inputs, ["logits"])


def _rope_rows(writer: OnnxWriter, model: Qwen3ForCausalLM) -> tuple[str, str]:
    """cos and sin [1, n, head_dim] looked up by position, from Hugging Face's own rotary module."""
    positions = torch.arange(POSITIONS)[None]
    names = []
    for name, table in zip(("cos", "sin"), model.model.rotary_emb(torch.zeros(1), positions), strict=True):
        rows = [writer.constant(f"{name}.table", table[0]), "position_ids"]
        names.append(writer.op("Gather", rows, f"{name}.rows", axis=0))
    return names[0], names[1]


def _layer(
    writer: OnnxWriter, hidden: str, number: int, layer: Any, config: Qwen3Config, cosine: str, sine: str
) -> str:
    prefix, attention = f"model.layers.{number}", layer.self_attn
    normal = writer.rms_norm(
        hidden, f"{prefix}.input_layernorm", layer.input_layernorm.weight.detach(), config.rms_norm_eps
    )
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    projected = {}
    for key, count in heads.items():
        name = f"{prefix}.self_attn.{key}_proj"
        weight = getattr(attention, f"{key}_proj").weight
        projected[key] = writer.reshape(
            writer.linear(normal, name, list(weight.shape)), name, [1, -1, count, config.head_dim]
        )
    for key in ("q", "k"):
        norm = getattr(attention, f"{key}_norm").weight.detach()
        projected[key] = writer.rms_norm(
            projected[key], f"{prefix}.self_attn.{key}_norm", norm, config.rms_norm_eps
        )
    rotated = [f"{prefix}.rotated_{key}" for key in ("q", "k")]
    writer.placeholder(
        "FusedRoPE", [projected["q"], projected["k"], cosine, sine], rotated, name=f"{prefix}.rope",
        rope_cut_head_dim=config.head_dim, num_head=heads["q"], kv_num_head=heads["k"], head_dim=config.head_dim,
    )  # fmt: skip
    attended = f"{prefix}.attended"
    writer.placeholder(
        "FusedAttention", [*rotated, projected["v"], "attention_mask"], [attended],
        name=f"{prefix}.attention", layer_index=number,
    )  # fmt: skip
    output = writer.linear(attended, f"{prefix}.self_attn.o_proj", list(attention.o_proj.weight.shape))
    middle = writer.op("Add", [hidden, output], f"{prefix}.middle")
    normal = writer.rms_norm(
        middle, f"{prefix}.post", layer.post_attention_layernorm.weight.detach(), config.rms_norm_eps
    )
    gate = writer.linear(normal, f"{prefix}.mlp.gate_proj", list(layer.mlp.gate_proj.weight.shape))
    up = writer.linear(normal, f"{prefix}.mlp.up_proj", list(layer.mlp.up_proj.weight.shape))
    sigmoid = writer.op("Sigmoid", [gate], f"{prefix}.sigmoid")
    silu = writer.op("Mul", [gate, sigmoid], f"{prefix}.silu")
    product = writer.op("Mul", [silu, up], f"{prefix}.product")
    down = writer.linear(product, f"{prefix}.mlp.down_proj", list(layer.mlp.down_proj.weight.shape))
    return writer.op("Add", [middle, down], f"{prefix}.out")


def write_fp16_weights(matrices: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """A weight file of raw fp16 matrices, one after the other, and its weights.json."""
    linears, offset = {}, 0
    with path.open("wb") as file:
        for name, matrix in matrices.items():
            data = matrix.detach().to(torch.float16).numpy().tobytes()
            file.write(data)
            linears[name] = {
                "external": [offset, len(data), 0, 0, 0], "header_bytes": 0, "bits": 16, "block": 0, "symmetric": False,
                "scale_bits": 16, "shape_int32": False, "a_min": 0, "out_features": matrix.shape[0],
                "in_features": matrix.shape[1],
            }  # fmt: skip
            offset += len(data)
    return {"linears": linears, "tables": {}, "bytes": offset}


def linear_weights(model: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    """Every linear's matrix by its module's name."""
    return {name: part.weight for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


def write_tokenizer(path: Path, vocab_size: int) -> None:
    """A legacy tokenizer.txt (type 3): GPT-2's 256 byte symbols, the two ChatML tokens, fillers, no merges."""
    symbols = _byte_symbols()
    tokens = [*symbols, *SPECIALS.values(), *(f"<filler_{i}>" for i in range(vocab_size - 256 - len(SPECIALS)))]
    head = f"430 3\n{len(SPECIALS)} 1 0\n{' '.join(map(str, [*SPECIALS, STOP]))}\n{len(tokens)} 0\n"
    path.write_text(head + "\n".join(tokens) + "\n", encoding="utf-8")


def _byte_symbols() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [bytes_to_unicode()[byte] for byte in range(256)]


def write_product(model: Qwen3ForCausalLM, folder: Path) -> Path:
    """A whole product with fp16 weights: what every test of the runner and of the verbs runs."""
    folder.mkdir(parents=True)
    work = folder.parent / f"{folder.name}-work"
    build_skeleton(write_onnx(model, folder.parent / f"{folder.name}.onnx"), work.with_suffix(".json"), work, True)
    weights = write_fp16_weights(linear_weights(model), folder / "llm.mnn.weight")
    link(work.with_suffix(".json"), weights, folder, work, Converter(work / "log"), True)
    embedding = model.model.embed_tokens.weight.detach().to(torch.bfloat16).view(torch.int16).numpy()
    (folder / "embeddings_bf16.bin").write_bytes(embedding.tobytes())
    write_tokenizer(folder / "tokenizer.txt", model.config.vocab_size)
    config = {
        "llm_model": "llm.mnn", "llm_weight": "llm.mnn.weight", "tokenizer_file": "tokenizer.txt",
        "backend_type": "cpu", "thread_num": 1, "precision": "high", "memory": "normal", "sampler_type": "mixed",
        "temperature": 0.8, "top_k": 20,
    }  # fmt: skip
    language = {
        "hidden_size": model.config.hidden_size, "layer_nums": model.config.num_hidden_layers,
        "attention_mask": "float", "attention_type": "full", "is_mrope": False, "model_type": "qwen3",
        "max_position_embeddings": POSITIONS, "jinja": {"chat_template": TEMPLATE, "eos": SPECIALS[STOP]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "llm_config.json").write_text(json.dumps(language))
    return folder
