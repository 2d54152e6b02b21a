"""Keys that describe the model itself (llm_config.json), text first, then vision, audio and speech."""

from __future__ import annotations

from pipeline.runtime.key import Key

_HUGE = 1 << 31

MODEL = (
    Key("hidden_size", int, 4096, "width of the embedding; a wrong one loads and answers nothing", file="llm_config",
        minimum=1, maximum=1 << 20),
    Key("layer_nums", int, 32, "decoder layers (prefix cache only)", file="llm_config", minimum=1, maximum=4096),
    Key("attention_mask", str, "int", "\"float\" for every graph with the Attention op; \"int\" lets it look ahead",
        file="llm_config", choices=("float", "int", "glm", "glm2")),
    Key("attention_type", str, "full", "mix: full and sliding layers, chosen by the graph (\"sliding\" is ignored)",
        file="llm_config", choices=("full", "mix", "sliding")),
    Key("sliding_window", int, 0, "window of the sliding layers of mix", "tokens", file="llm_config", minimum=0,
        maximum=_HUGE),
    Key("is_mrope", bool, False, "three rows of position ids", file="llm_config", since="3.4.1"),
    Key("attn_scale", float, 0.0, "attention scale for all layers, 0 = 1/sqrt(head size)", file="llm_config",
        minimum=0.0, maximum=1e6, since="3.6.0"),
    Key("tie_embeddings", dict, {}, "where the embedding's quantised rows lie in llm_weight (or embedding_file): "
        "weight_offset, alpha_offset, alpha_size, quant_bit, quant_block, alpha_dtype; before 3.6.0 a list of the "
        "first five, scales then in fp32", file="llm_config"),
    Key("jinja", dict, {}, "chat_template, eos, context (3.4 reads bos as well; later engines take bos from the "
        "tokenizer)",
        file="llm_config"),
    Key("ple_embed_file", str, "", "per-layer embeddings (Gemma 4)", file="llm_config", path=True, since="3.6.0"),
    Key("ple_embed_dim", int, 0, "their width", file="llm_config", minimum=0, maximum=1 << 24, since="3.6.0"),
    Key("ple_embed_scale", float, 1.0, "their scale", file="llm_config", minimum=0.0, maximum=1e6, since="3.6.0"),
    Key("ple_quant", list, [], "their quantisation, as tie_embeddings' list", file="llm_config", item=int,
        since="3.6.0"),
    Key("load_disk_embedding_only", bool, False, "an embedding model's session without its graph", file="llm_config"),
)

_VISION = (
    Key("is_visual", bool, False, "the model has a vision encoder", file="llm_config"),
    Key("has_deepstack", bool, False, "the vision encoder feeds several layers", file="llm_config"),
    Key("image_size", int, 448, "side of the square that an image becomes", "pixels", file="llm_config", minimum=1,
        maximum=1 << 16),
    Key("image_size_unit", int, 1, "a side is a multiple of this", "pixels", file="llm_config", minimum=1,
        maximum=1 << 16),
    Key("image_max_size", int, 2048, "longest side before tiling", "pixels", file="llm_config", minimum=1,
        maximum=1 << 16),
    Key("image_mean", list, [], "mean to take off, × 255", file="llm_config", item=float, length=3),
    Key("image_norm", list, [], "factor after that, 1 / (255 × deviation)", file="llm_config", item=float, length=3),
    Key("image_pad", int, 151655, "token that stands for a piece of an image", file="llm_config", minimum=0,
        maximum=_HUGE),
    Key("vision_start", int, 151652, "token before an image", file="llm_config", minimum=0, maximum=_HUGE),
    Key("vision_end", int, 151653, "token after an image", file="llm_config", minimum=0, maximum=_HUGE),
    Key("vision_slice_start_id", int, 111, "token before a tile", file="llm_config", minimum=0, maximum=_HUGE),
    Key("vision_slice_end_id", int, 112, "token after a tile", file="llm_config", minimum=0, maximum=_HUGE),
    Key("vision_id_start_id", int, 113, "token before an image's number", file="llm_config", minimum=0, maximum=_HUGE),
    Key("vision_id_end_id", int, 114, "token after an image's number", file="llm_config", minimum=0, maximum=_HUGE),
    Key("global_image", int, 49152, "token of the whole image beside its tiles", file="llm_config", minimum=0,
        maximum=_HUGE),
    Key("num_grid_per_side", int, 1, "grid of the position table", file="llm_config", minimum=1, maximum=1 << 16),
)

_AUDIO = (
    Key("is_audio", bool, False, "the model has an audio encoder", file="llm_config"),
    Key("audio_type", str, "whisper", "features of the audio encoder", file="llm_config",
        choices=("whisper", "conformer", "usm"), since="3.5.0"),
    Key("audio_pad", int, 151646, "token that stands for a piece of sound", file="llm_config", minimum=0, maximum=_HUGE,
        since="3.5.0"),
    Key("audio_start", int, -1, "token before sound, -1 none", file="llm_config", minimum=-1, maximum=_HUGE,
        since="3.6.0"),
    Key("audio_end", int, -1, "token after sound, -1 none", file="llm_config", minimum=-1, maximum=_HUGE,
        since="3.6.0"),
)

_SPEECH = (
    Key("has_talker", bool, False, "the model speaks", file="llm_config"),
    Key("talker_model", str, "talker.mnn", "the speaking model", file="llm_config", path=True),
    Key("talker_embedding_file", str, "talker_embeddings_bf16.bin", "its embedding", file="llm_config", path=True),
    Key("predit_model", str, "predit.mnn", "first stage of its sound", file="llm_config", path=True),
    Key("dit_model", str, "dit.mnn", "second stage", file="llm_config", path=True),
    Key("bigvgan_model", str, "bigvgan.mnn", "vocoder", file="llm_config", path=True),
    Key("spk_dict", str, "spk_dict.mnn", "voices", file="llm_config", path=True),
    Key("talker_max_new_tokens", int, 2048, "longest speech", "tokens", file="llm_config", minimum=1, maximum=1 << 24),
    Key("talker_speaker", str, "Chelsie", "voice", file="llm_config"),
    Key("interleaved", bool, False, "text and speech tokens in turn", file="llm_config", since="3.6.0"),
    Key("dit_steps", int, 5, "steps of the sound's solver", file="llm_config", minimum=1, maximum=1000),
    Key("dit_solver", int, 1, "1 Euler, 4 Runge-Kutta", file="llm_config", choices=(1, 4)),
)

MULTIMODAL = (*_VISION, *_AUDIO, *_SPEECH)
