"""The tokenizer that a model's folder describes, as the reference for models that read texts and write none.

tokenizer.json is the specification, as everywhere (docs/tokenizers.md): transformers 5 rebuilds some tokenizers from
their class's name instead (XLMRobertaTokenizer, …) and then treats blanks in another way than the file says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.verify import huggingface


def open_tokenizer(folder: Path, limit: int, *, trust_remote_code: bool = False) -> Any:
    """A `tokenizers.Tokenizer` that puts special tokens around texts and pairs, cuts at `limit` tokens (of a pair the
    longer text first) and pads nothing."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        tokenizer = huggingface.load_tokenizer(folder, trust_remote_code=trust_remote_code).backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit, strategy="longest_first")
    return tokenizer
