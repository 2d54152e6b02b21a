"""Keys that name files, and the switches of how weights are brought into memory."""

from __future__ import annotations

from pipeline.runtime.key import Key

FILES = (
    Key("base_dir", str, "", "folder that every file name starts from; the config's own folder by default. The engine "
        "glues it to the names, so it must end in '/'"),
    Key("llm_config", str, "llm_config.json", "file of the model's own keys, merged over config.json", path=True),
    Key("llm_model", str, "llm.mnn", "the graph", path=True),
    Key("llm_weight", str, "llm.mnn.weight", "the weights; also a tied embedding's rows", path=True),
    Key("tokenizer_file", str, "tokenizer.txt", "the tokenizer, mtok or text, told apart by its first line", path=True),
    Key("embedding_file", str, "embeddings_bf16.bin", "rows of a separate embedding", path=True),
    Key("context_file", str, "context.json", "if there, becomes jinja.context", path=True),
    Key("visual_model", str, "visual.mnn", "the vision encoder", path=True),
    Key("audio_model", str, "audio.mnn", "the audio encoder", path=True),
    Key("npu_model_dir", str, "", "folder of models compiled for a neural processor", path=True),
    Key("use_mmap", bool, False, "write weights to tmp_path and map them, so that they need not stay in memory; the "
        "cache file knows nothing of the model: one tmp_path for each product"),
    Key("use_cached_mmap", bool, True, "use the mapped file again at the next load"),
    Key("mmap_size", int, 1024, "size of one mapped file", "MB", minimum=1, maximum=1 << 20, since="3.5.0"),
    Key("kvcache_mmap", bool, False, "keep the KV cache in mapped files below tmp_path"),
    Key("tmp_path", str, "", "folder for mapped files and kernel caches; from the process's own folder, not the "
        "product's"),
    Key("prefix_cache_path", str, "prefixcache", "folder of saved prefixes"),
)
