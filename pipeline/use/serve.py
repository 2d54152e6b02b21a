"""`python -m pipeline serve PRODUCT`: an OpenAI-compatible server on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner import Engine
from pipeline.mnn.runner.product import open_product
from pipeline.use.sampler import Sampling
from pipeline.use.settings import (
    add_product_options,
    check_keys,
    open_engine,
    overrides,
    positive,
    sampling_of,
)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_VARIABLE = "PIPELINE_SERVE_TOKEN"


def main(arguments: Sequence[str]) -> int:
    """Serves until it is told to stop (Ctrl-C, SIGTERM), and lets answers that are being written end."""
    options = _parse(arguments)
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise UserError("the server's packages are not installed", "pip install 'mnn-pipeline[serve]'")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if options.host not in _LOOPBACK and not token:
        raise UserError(
            f"--host {options.host} can be reached by others, and no token is set",
            f"set {TOKEN_VARIABLE}, or use 127.0.0.1",
        )
    check_keys(options.product)
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            application(options, token),
            host=options.host,
            port=options.port,
            log_level="warning",
            timeout_graceful_shutdown=options.grace,
            timeout_keep_alive=15,
        )
    )
    print(f"serving {options.product} on http://{options.host}:{options.port}", flush=True)
    server.run()
    return 0 if server.started else 1


def application(options: argparse.Namespace, token: str) -> Any:
    """The ASGI application of the command line's options."""
    from pipeline.use.server.app import Limits, application
    from pipeline.use.server.pool import Pool

    keys = overrides(options.assignments)
    product = open_product(options.product)
    name, hosts = options.name or product.folder.name, [*_LOOPBACK[:2], "[::1]", options.host]
    usual = 1 << (23 if product.config.get("is_audio") else 20)  # 30 seconds of sound at 48 kHz are 4 MB in base64
    limits = Limits(body=options.max_body or usual, tokens=options.max_new_tokens, token=token)
    task = product.manifest.get("model", {}).get("task")
    if task == "embedding":
        from pipeline.use.server import embeddings

        return embeddings.application(options, keys, name, limits, hosts)
    if task == "rerank":
        from pipeline.use.server import rerank

        return rerank.application(options, keys, name, limits, hosts)

    def sampling(engine: Engine) -> Sampling:
        return sampling_of(engine, keys, greedy=False)

    pool = Pool(lambda: open_engine(options, keys), sampling, options.workers, options.queue)
    return application(pool, name, limits, hosts)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline serve", description=__doc__)
    add_product_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help=f"anything but loopback needs {TOKEN_VARIABLE}")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--name", default="", help="the model's name in the protocol (default: the folder's)")
    parser.add_argument("--workers", type=positive, default=1, help="engines, each a process with the whole model")
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait; beyond it they get a 429")
    parser.add_argument("--max-new-tokens", type=positive, default=4096, help="longest answer that may be asked for")
    parser.add_argument("--max-body", type=positive, help="bytes of a request (default: 1 MB; 8 MB with sound)")
    parser.add_argument("--grace", type=int, default=10, help="seconds that answers may still take after a stop")
    return parser.parse_args(list(arguments))
