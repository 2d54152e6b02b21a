"""Keys whose effect cannot be seen on the wheel for PCs with a text model, and why. All others have a test each."""

from __future__ import annotations

from pipeline.runtime.keys_generation import SPECULATIVE
from pipeline.runtime.keys_model import MULTIMODAL

_PHONE = "only processors with fp16 arithmetic tell (on x86 it is tested that nothing changes)"
_CORES = "only ARM processors have such cores"
_DRAFT = "drafted tokens change the speed alone; all but lookahead need draft models of their own"
_ENCODER = "needs a model with an encoder or a voice; checked where such products are built"
_CPP = "read by the C++ chat interface, which the Python module does not have"
_GEMMA = "needs Gemma 4's per-layer embeddings"

UNSEEN: dict[str, str] = {
    **{key.name: _DRAFT for key in SPECULATIVE},
    **{key.name: _ENCODER for key in MULTIMODAL},
    "visual_model": _ENCODER,
    "audio_model": _ENCODER,
    "mllm": _ENCODER,
    "is_mrope": _ENCODER,
    "precision": _PHONE,
    "power": _CORES,
    "cpu_sme2_neon_division_ratio": _CORES,
    "cpu_sme_core_num": _CORES,
    "npu_model_dir": "needs a neural processor",
    "async": "the order of work on a device, not its result",
    "enable_debug": "the engine's own prints",
    "max_all_tokens": "stored by the engine, used nowhere",
    "prompt_cache": _CPP,
    "prefix_cache_path": _CPP,
    "layer_nums": _CPP,
    "hidden_states": "needs a graph with that output, which ours has not: the engine does not load then",
    "load_disk_embedding_only": "read by the C++ embedding class, which the Python module opens in its own way",
    **dict.fromkeys(("ple_embed_file", "ple_embed_dim", "ple_embed_scale", "ple_quant"), _GEMMA),
}
