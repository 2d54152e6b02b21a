"""Keys of the device and of the arithmetic on it. Read at load time."""

from __future__ import annotations

from pipeline.runtime.key import Key

LEVELS = ("low", "normal", "high")
BACKENDS = ("cpu", "metal", "cuda", "opencl", "opengl", "vulkan", "hexagon", "npu")
ATTENTION_MODES = (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14)

BACKEND = (
    Key("backend_type", str, "cpu", "the device; one that the engine was not built with falls back to cpu with only a "
        "line on stdout", choices=BACKENDS),
    Key("thread_num", int, 4, "threads on cpu; on opencl a bit field of tuning modes (68 = buffers, wide tuning)",
        minimum=1, maximum=1024),
    Key("precision", str, "low", "low: fp16 arithmetic where the device has it (no effect on x86)", choices=LEVELS),
    Key("memory", str, "low",
        "low: weights stay quantised and activations are quantised to int8; normal and high: float",
        choices=LEVELS),
    Key("power", str, "normal", "which cores of a phone to prefer", choices=LEVELS),
    Key("dynamic_option", int, 0, "how activations are quantised at memory low: 0 per token, 1 per tensor, 2 per "
        "block of the weights (6 to 13 times less error, no slower); + 8 for faster decoding and slower short prompts",
        choices=(0, 1, 2, 8, 9, 10)),
    Key("attention_mode", int, 8, "flash attention × 8 + KV cache: 0 float, 1 key int8, 2 both int8, 3 key TQ3, 4 "
        "both TQ3, 5 key TQ4, 6 both TQ4 (TQ is for large models: a 135M one answers nonsense)",
        choices=ATTENTION_MODES),
    Key("cpu_sme2_neon_division_ratio", int, 41, "share of work between SME and NEON cores, 8 × prefill + decode",
        minimum=9, maximum=63),
    Key("cpu_sme_core_num", int, 2, "cores with SME", minimum=0, maximum=64),
    Key("async", bool, True, "prepare the next step while the device works"),
    Key("mllm", dict, {}, "backend_type, thread_num, precision, memory, power for the vision and audio encoders; they "
        "share the language model's runtime if absent"),
)
