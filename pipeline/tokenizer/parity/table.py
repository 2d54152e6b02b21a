"""The parity table of docs/tokenizers.md: `python -m pipeline.tokenizer.parity.table FOLDER …` prints it.

A folder is a Hugging Face folder; its name is the row's. The table carries the digest of what was compared, so that a
test can tell a table that is older than the corpus.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import StageFailed
from pipeline.tokenizer.build import write
from pipeline.tokenizer.folder import TokenizerFolder
from pipeline.tokenizer.parity.check import check_parity
from pipeline.tokenizer.parity.conversations import CONVERSATIONS
from pipeline.tokenizer.parity.corpus import corpus, digest

TEXTS = 20_000
HEAD = (
    "| tokenizer | kind | ids | texts | ids differ | of these explained | text differs | prompts | differ | refused by"
    " itself |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def fingerprint(count: int = TEXTS) -> str:
    """Digest of the texts and conversations that the table is about, 16 hexadecimal digits."""
    conversations = json.dumps([[one.name, one.messages, dict(one.variables)] for one in CONVERSATIONS])
    return hashlib.sha256(f"{digest(corpus(count))} {conversations}".encode()).hexdigest()[:16]


def row(folder: Path, count: int = TEXTS) -> str:
    """One line of the table; of a sentence-transformers folder ids only. Raises StageFailed when the engine crashes."""
    embeds = (folder / "modules.json").exists()
    with tempfile.TemporaryDirectory() as name:
        facts = write(TokenizerFolder.open(folder), Path(name), embeds=embeds)
        conversations = () if embeds else CONVERSATIONS
        parity = check_parity(Path(name), folder, count, conversations=conversations, decodes=not embeds)
    kind = f"byte-level {facts.kind}" if facts.byte_level else facts.kind
    prompts = parity.conversations - parity.refused if facts.chat_template else 0
    cells = (
        folder.name,
        kind,
        f"{facts.vocab_size:,}",
        f"{parity.texts:,}",
        parity.encode_differences + parity.explained,
        parity.explained,
        parity.decode_differences,
        prompts,
        parity.template_differences,
        parity.refused,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main(arguments: Sequence[str]) -> int:
    """Prints the table; a tokenizer that is refused gets a line that says why."""
    print(f"<!-- compared: {fingerprint()} -->\n{HEAD}", flush=True)
    for argument in arguments:
        try:
            print(row(Path(argument)), flush=True)
        except StageFailed as error:
            print(f"| {Path(argument).name} | refused: {error} |" + " |" * 8, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
