"""The recipe: what conf/*.yaml may say. YAML holds the content, these dataclasses check names and types.

Every field is content; nothing here is instantiated from YAML. Cross-field rules live in `validate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Package:
    """A file inside an installed Python distribution."""

    distribution: str = ""
    file: str = ""


@dataclass
class Model:
    """Where a model comes from. `hub`: huggingface, modelscope, local (a folder or a .gguf file at `path`), package.

    task: what it is for, "text" (a decoder that writes), "embedding" (one vector for a text) or "rerank" (a
    cross-encoder: one score for a query and a document; a local folder's config.json says it itself). pooling: cls,
    mean, last or max, for an embedding model whose folder does not say it.
    """

    name: str = ""
    hub: str = "huggingface"
    repo: str = ""
    modelscope_repo: str = ""
    revision: str = "main"
    path: str = ""
    package: Package = field(default_factory=Package)
    gptq_path: str = ""
    task: str = "text"
    pooling: str = ""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    family: str = ""
    licence: str = ""
    context_length: int = 0
    parameters: float = 0.0  # in billions, for estimates before anything is downloaded
    modalities: list[str] = field(default_factory=list)  # encoders beside the decoder: visual, audio
    notes: str = ""


@dataclass
class Rule:
    """Overrides for the tensors whose name matches `pattern` (re.search); the first matching rule wins.

    None means: as the recipe says. keep=True leaves the tensor in fp16.
    """

    pattern: str = ""
    bits: int | None = None
    block: int | None = None
    symmetric: bool | None = None
    algorithm: str | None = None
    keep: bool = False


@dataclass
class Calibration:
    """The text that calibrated algorithms look at. text: "pydoc" (in every Python), "self", or a file's path."""

    text: str = "pydoc"
    sequences: int = 16
    length: int = 512
    seed: int = 0


@dataclass
class Quant:
    """Weight precision. bits 16 = fp16; block 0 = one scale per output channel; scale_bits 16 or 32.

    act_order: GPTQ takes the columns by falling importance. target_bytes, target_bpw (bits per weight), max_kld: goals
    of the algorithms that choose bits themselves.
    """

    name: str = ""
    algorithm: str = "rtn"
    bits: int = 4
    block: int = 64
    lm_bits: int | None = None
    lm_block: int | None = None
    symmetric: bool = False
    scale_bits: int = 16
    rules: list[Rule] = field(default_factory=list)
    calibration: Calibration = field(default_factory=Calibration)
    act_order: bool = True
    target_bytes: int | None = None
    target_bpw: float | None = None
    max_kld: float | None = None


@dataclass
class Visual:
    """The vision encoder of a model that has one. mode: auto, or off for the text part alone. block 0 = per channel.

    positions: "exact" (the graph counts where text stands after a picture) or "engine" (as the 3.6.1 engine does).
    """

    mode: str = "auto"
    bits: int = 16
    block: int = 0
    symmetric: bool = False
    algorithm: str = "rtn"
    rules: list[Rule] = field(default_factory=list)
    positions: str = "exact"


@dataclass
class Audio:
    """The sound encoder of a model that has one. mode: auto, or off for the rest alone. block 0 = per channel."""

    mode: str = "auto"
    bits: int = 16
    block: int = 0
    symmetric: bool = False
    algorithm: str = "rtn"
    rules: list[Rule] = field(default_factory=list)


@dataclass
class Adapter:
    """LoRA. mode: none, merge (into the weights), split (lora.mnn beside the base)."""

    mode: str = "none"
    path: str = ""
    weight: float = 1.0


@dataclass
class Embedding:
    """mode: auto (tied if the model ties them), tied, separate. bits of a separate table: 16 (bf16), 8 or 4."""

    mode: str = "auto"
    bits: int = 16


@dataclass
class TargetGraph:
    """Converter flags that decide which engines run the graph. fuse_c4 needs 3.6.1; without it no RoPE op either."""

    fuse_c4: bool = True


@dataclass
class Target:
    """The engine and device that the product is for.

    runtime: what config.json says, key by key. engine: the oldest version that must run the product. tie_embeddings:
    how a tied embedding's place is written, "dict" (3.6.0 on) or "list" (any). bits: widths that the target runs at
    all; fast_bits: those with kernels of their own. exact_positions: whether it computes in float32, which counting
    positions in the graph needs (`visual.positions`). plain_template: ship a plain chat template where the engine
    cannot run the model's own. requires: what the engine must have been built with.
    """

    name: str = ""
    engine: str = "3.6.1"
    mnnconvert: str = ""
    tokenizer_format: str = "mtok"
    plain_template: bool = False
    accept_tokenizer_limits: bool = False
    tie_embeddings: str = "dict"
    scale_bits: int | None = None
    bits: list[int] = field(default_factory=lambda: [2, 3, 4, 5, 6, 7, 8, 16])
    fast_bits: list[int] = field(default_factory=lambda: [4, 8, 16])
    symmetric_only: bool = False
    exact_positions: bool = True
    graph: TargetGraph = field(default_factory=TargetGraph)
    runtime: dict[str, Any] = field(default_factory=dict)
    requires: list[str] = field(default_factory=list)
    notes: str = ""


@dataclass
class Graph:
    """allow_approximate: let a graph differ knowingly from the model (say, without Gemma 2's attention softcap)."""

    allow_approximate: bool = False


@dataclass
class Thresholds:
    """Limits of the gate. None = not checked. Logit errors are relative to max|logit| unless named absolute.

    selfcheck_sound_error: against Hugging Face with its own features of a sound; on the engine's features, the limit
    is selfcheck_logit_error.
    max_tensor_error: ‖W − W'‖ / ‖W‖ of the worst quantised tensor. min_cosine, min_rank_correlation: of embedding
    models, against Hugging Face's vectors, and of the order of the similarities of all pairs of sentences.
    max_score_error, min_order: of rerankers; a logit's error as a share of the logits' range, and the share of two
    documents of a query, clearly apart, that stay in Hugging Face's order.
    """

    selfcheck_logit_error: float = 1e-3
    selfcheck_sound_error: float = 0.02
    max_kld: float | None = None
    min_top1: float | None = None
    max_logit_error_absolute: float | None = None
    max_tensor_error: float | None = None
    greedy_equal: bool = False
    min_cosine: float | None = None
    min_rank_correlation: float | None = None
    max_score_error: float | None = None
    min_order: float | None = None


@dataclass
class Verify:
    """How a product is proved. mode: fast, full, off. Thresholds by the weights' bits ("4", "8", "16")."""

    mode: str = "fast"
    sequences: int = 1
    length: int = 256
    max_new_tokens: int = 48
    question: str = "What is the capital of France?"
    threads: int = 2
    reference_memory_gb: float = 8.0
    thresholds: dict[str, Thresholds] = field(default_factory=dict)


@dataclass
class Cache:
    """The store. remote: any fsspec URL; remote_mode: off, read, readwrite."""

    dir: str = ""
    remote: str = ""
    remote_mode: str = "read"
    keep: str = "20GB"


@dataclass
class Recipe:
    """One product: model × quant × adapter × target, and how it is verified."""

    name: str = ""
    model: Model = field(default_factory=Model)
    quant: Quant = field(default_factory=Quant)
    adapter: Adapter = field(default_factory=Adapter)
    target: Target = field(default_factory=Target)
    embedding: Embedding = field(default_factory=Embedding)
    graph: Graph = field(default_factory=Graph)
    visual: Visual = field(default_factory=Visual)
    audio: Audio = field(default_factory=Audio)
    verify: Verify = field(default_factory=Verify)
    cache: Cache = field(default_factory=Cache)
