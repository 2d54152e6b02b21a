"""`python -m pipeline VERB …`: what a person does with a product. Building one is `doit export …`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from pipeline.errors import PipelineError, UserError, nearest

VERBS = {
    "chat": "talk to a product",
    "run": "answer a file of prompts",
    "ask": "ask the Hugging Face model itself",
    "bench": "measure prefill and decode speed",
    "embed": "vectors of texts, from an embedding product",
    "rerank": "how well documents answer a query",
    "serve": "an OpenAI-compatible server",
    "inspect": "what is inside a product",
    "tokens": "a text's tokens, the engine's and Hugging Face's",
    "config": "show or change a product's run-time keys",
}
_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; returns the exit code (0 ok, 1 failed, 3 the request was wrong). Never a traceback for those."""
    try:
        return _dispatch(arguments)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter must not try to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        raise UserError(f"there is no '{verb}'.{nearest(verb, VERBS)}", f"known: {', '.join(VERBS)}")
    # Imported by name, so that no verb pays for another's imports.
    module = importlib.import_module(f"pipeline.use.{verb}")
    return int(module.main(list(arguments[1:])))


def _usage() -> str:
    lines = [f"  {name:8} {meaning}" for name, meaning in VERBS.items()]
    return "usage: python -m pipeline VERB …   (VERB --help says more)\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
