"""What the recipe says about precisions: the paths that every stage reads that has to resolve them."""

from __future__ import annotations

PRECISION_CONFIG = (
    "quant.algorithm",
    "quant.bits",
    "quant.block",
    "quant.lm_bits",
    "quant.lm_block",
    "quant.symmetric",
    "quant.scale_bits",
    "quant.rules",
    "quant.target_bytes",
    "quant.target_bpw",
    "quant.max_kld",
)
