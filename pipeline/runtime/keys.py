"""Every key that engine 3.6.1 reads from config.json and llm_config.json, by name.

Source: llmconfig.hpp, llm.cpp, omni.cpp, embedding.cpp and sampler.cpp of the engine's public tag 3.6.1; `since` by
comparing the same files of the tags 3.4.0, 3.4.1, 3.5.0 and 3.6.0. The engine ignores a key that it does not know.
"""

from __future__ import annotations

from pipeline.runtime.key import Key
from pipeline.runtime.keys_backend import BACKEND
from pipeline.runtime.keys_files import FILES
from pipeline.runtime.keys_generation import GENERATION, SAMPLING, SPECULATIVE
from pipeline.runtime.keys_model import MODEL, MULTIMODAL

SECTIONS: dict[str, tuple[Key, ...]] = {
    "Files and memory": FILES,
    "Device": BACKEND,
    "Generation": GENERATION,
    "Sampler": SAMPLING,
    "Speculative decoding": SPECULATIVE,
    "Model": MODEL,
    "Vision, audio and speech": MULTIMODAL,
}

KEYS: dict[str, Key] = {key.name: key for section in SECTIONS.values() for key in section}
