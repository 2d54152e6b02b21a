"""Tiny random models with encoders, written as whole Hugging Face folders: weights, tokenizer, image processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
TILES = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 4) for column in range(1, 4))
SPECIALS = (
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<fake_token_around_image>", "<global-img>", "<img>", "</img>", *ROWS),
    *("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>", "<start_of_image>", "<end_of_image>"),
    *("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *TILES),
    *("<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
)
FIRST = 256  # ids of the special tokens begin after the bytes
START, END, IMAGE, VIDEO = (FIRST + SPECIALS.index(f"<|{name}|>") for name in (
    "vision_start", "vision_end", "image_pad", "video_pad"))  # fmt: skip
BEFORE, AUDIO, AFTER = (FIRST + SPECIALS.index(f"<|{name}|>") for name in ("audio_bos", "AUDIO", "audio_eos"))

TEXT = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": FIRST + 1,
}
QWEN_TOKENS = {
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
}
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
INTERLEAVED = {**MROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True, "partial_rotary_factor": 0.5}
GRID = {
    "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128, "patch_size": 16,
    "num_position_embeddings": 64,
}  # fmt: skip
DELTA_NET = {
    "num_hidden_layers": 3, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {
            **TEXT, "num_hidden_layers": 3, "head_dim": 32, "query_pre_attn_scalar": 48, "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 64, "patch_size": 8, "vision_use_head": False,
        },
        "mm_tokens_per_image": 16,  # more than the window holds
        "boi_token_index": FIRST + SPECIALS.index("<start_of_image>"),
        "eoi_token_index": FIRST + SPECIALS.index("<end_of_image>"),
        "image_token_index": IMAGE,
        "tie_word_embeddings": True,
    },
    "idefics3": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 64, "patch_size": 8,
        },
        "scale_factor": 2,
        "image_token_id": IMAGE,
        "tie_word_embeddings": True,
    },
    "internvl": {
        "text_config": {**TEXT, "model_type": "qwen2", "tie_word_embeddings": True},
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": [64, 64], "patch_size": [8, 8],
        },
        "image_token_id": IMAGE,
        "tie_word_embeddings": True,
    },
    "lfm2_vl": {
        "text_config": {
            **TEXT, "model_type": "lfm2", "block_ff_dim": 192, "conv_L_cache": 3, "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
        },
        "vision_config": {
            "model_type": "siglip2_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_patches": 1089, "patch_size": 16, "vision_use_head": False,
        },
        "projector_hidden_size": 96,
        "image_token_id": IMAGE,
        "tie_word_embeddings": True,
    },
    "minicpmv4_6": {
        "text_config": {**TEXT, **DELTA_NET, "model_type": "qwen3_5_text", "rope_parameters": INTERLEAVED},
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 112, "patch_size": 14,
        },
        "insert_layer_id": 1,  # one layer before the windows' with patches, one behind them with a quarter as many
        "image_size": 112,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "tie_word_embeddings": True,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {
            "depth": 4, "hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 128, "num_heads": 4,
            "window_size": 112, "fullatt_block_indexes": [1, 3],
        },
        "tie_word_embeddings": True,
        **QWEN_TOKENS,
    },
    "qwen3_5": {
        "text_config": {**TEXT, **DELTA_NET, "rope_parameters": INTERLEAVED},
        "vision_config": GRID,
        "tie_word_embeddings": True,
        **QWEN_TOKENS,
    },
    "qwen3_5_moe": {
        "text_config": {
            **TEXT, **DELTA_NET, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64, "rope_parameters": INTERLEAVED,
        },
        "vision_config": GRID,
        "tie_word_embeddings": True,
        **QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "num_hidden_layers": 4, "head_dim": 32, "rope_parameters": {
            **MROPE, "mrope_section": [6, 5, 5], "mrope_interleaved": True}},
        "vision_config": {**GRID, "depth": 4, "deepstack_visual_indexes": [0, 1, 2]},
        "tie_word_embeddings": True,
        **QWEN_TOKENS,
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {"depth": 3, "embed_dim": 64, "hidden_size": 128, "num_heads": 4, "mlp_ratio": 2},
        "tie_word_embeddings": True,
        **QWEN_TOKENS,
    },
}
CONFIGS["minicpmv4_7"] = {
    **CONFIGS["minicpmv4_6"],
    **{name: FIRST + SPECIALS.index(word) for name, word in (
        ("image_start_id", "<image>"), ("image_end_id", "</image>"), ("slice_start_id", "<slice>"),
        ("slice_end_id", "</slice>"))},
    "newline_id": sorted(pre_tokenizers.ByteLevel.alphabet()).index("Ċ"),
}  # fmt: skip
CONFIGS["smolvlm"] = CONFIGS["idefics3"]
CONFIGS["qwen2_5_omni"] = {  # the whole of it, as published: what speaks lies beside what sees, hears and writes
    "thinker_config": {
        "text_config": {**TEXT, "rope_parameters": MROPE, "tie_word_embeddings": False},
        "vision_config": CONFIGS["qwen2_5_vl"]["vision_config"],
        "audio_config": {
            "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "output_dim": 128,
        },
        "audio_token_index": AUDIO,
        "audio_start_token_id": BEFORE,
        "audio_end_token_id": AFTER,
        "image_token_index": IMAGE,
        "video_token_index": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    },
    "talker_config": {
        **TEXT, "hidden_size": 64, "head_dim": 16, "num_hidden_layers": 1, "embedding_size": 128,
        "rope_parameters": {**MROPE, "mrope_section": [2, 3, 3]},
    },
    "token2wav_config": {
        "dit_config": {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ff_mult": 1, "emb_dim": 16,
            "head_dim": 16, "num_embeds": 20, "mel_dim": 8, "enc_dim": 8, "enc_emb_dim": 8,
            "enc_channels": [8, 8, 8, 8, 24], "enc_attention_channels": 8, "enc_se_channels": 8,
            "look_ahead_layers": [0], "look_backward_layers": [0],
        },
        "bigvgan_config": {
            "mel_dim": 8, "upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "upsample_rates": [2],
            "resblock_dilation_sizes": [[1, 3, 5]], "upsample_kernel_sizes": [4],
        },
    },
}  # fmt: skip
PROCESSORS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 200704,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
}
PROCESSORS["qwen2_5_vl"] = PROCESSORS["qwen2_vl"]
PROCESSORS["qwen2_5_omni"] = {
    **PROCESSORS["qwen2_vl"], "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128,
    "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 300, "return_attention_mask": True,
}  # fmt: skip
PROCESSORS["qwen3_vl"] = {
    **PROCESSORS["qwen2_vl"], "patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "min_pixels": 4096,
}  # fmt: skip
PROCESSORS["qwen3_5"] = PROCESSORS["qwen3_5_moe"] = PROCESSORS["qwen3_vl"]
PROCESSORS["idefics3"] = {
    "image_processor_type": "Idefics3ImageProcessor",
    "size": {"longest_edge": 256},
    "max_image_size": {"longest_edge": 64},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 1,
    "do_image_splitting": True,
}
PROCESSORS["lfm2_vl"] = {  # of the gate's pictures the wide one is cut into tiles, the tall one is not
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "min_image_tokens": 4,
    "max_image_tokens": 20,
    "max_tiles": 6,
    "tile_size": 64,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
PROCESSORS["gemma3"] = {
    "image_processor_type": "Gemma3ImageProcessor",
    "size": {"height": 64, "width": 64},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_pan_and_scan": None,
}
PROCESSORS["internvl"] = {
    "image_processor_type": "GotOcr2ImageProcessor",
    "size": {"height": 64, "width": 64},
    "crop_to_patches": True,
    "min_patches": 1,
    "max_patches": 6,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
PROCESSORS["minicpmv4_6"] = {
    "image_processor_type": "MiniCPMV4_6ImageProcessor",
    "scale_resolution": 112,
    "max_slice_nums": 9,
    "patch_size": 14,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
PROCESSORS["minicpmv4_7"] = PROCESSORS["minicpmv4_6"]
PROCESSORS["smolvlm"] = {**PROCESSORS["idefics3"], "image_processor_type": "SmolVLMImageProcessor"}


def write_model(family: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A tiny `family` with random weights that fp16 holds exactly; `changes` win over CONFIGS[family]."""
    model = random_model({**CONFIGS[family], **changes}, family, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    _edit(folder / "config.json", dtype="bfloat16")
    write_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[family]))
    return folder


def random_model(content: Mapping[str, Any], family: str, seed: int) -> PreTrainedModel:
    """float32, its values bfloat16's; wide enough that attention and positions show in the logits."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **content)
    auto: Any = AutoModelForMultimodalLM if "thinker_config" in content else AutoModelForImageTextToText
    model: PreTrainedModel = auto.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                wide = "embed_tokens" in name or "position_embedding" in name or "pos_embed" in name
                parameter.normal_(0, 1.0 if wide else float(parameter[0].numel()) ** -0.5)
            elif "norm" in name or "ln_q" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.1)
            parameter.copy_(torch.nn.functional.hardshrink(parameter, 2.0**-12).bfloat16())
    model.tie_weights()
    return model.eval()


def load(folder: Path) -> Any:
    """The Hugging Face model in float32 with plain attention; of Qwen2.5-Omni the thinker."""
    config = AutoConfig.from_pretrained(folder)
    return AutoModelForImageTextToText.from_pretrained(
        folder, config=getattr(config, "thinker_config", config), dtype=torch.float32, attn_implementation="eager"
    ).eval()


def write_tokenizer(folder: Path) -> None:
    """Bytes, the special tokens of ChatML and of pictures, and ChatML as chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1, sort_keys=True))
