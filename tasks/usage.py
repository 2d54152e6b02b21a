"""`doit` alone: what can be typed."""

from __future__ import annotations

from typing import Any

TEXT = """\
doit export [model=… quant=… key=value …]   build, verify and publish; commas sweep: model=a,b quant=int4,int8
doit plan   [model=… quant=… key=value …]   what would be built, and why; builds nothing
doit models · doit quants                   what can be built
doit verify [model=… quant=…]               the full verification of a product
doit verify engines=3.4.0,3.6.1 [PRODUCT]   run a product on other versions of the engine
doit lock   [model=… quant=…]               write pipeline.lock; doit export --locked holds to it
doit gc     [--keep 20GB | --older-than 30d] sweep the store
doit clean · doit forget export [model=…]   remove products · forget what was built
python -m pipeline chat PRODUCT             talk to a product (run, bench, inspect as well)
"""


def task_usage() -> dict[str, Any]:
    """this list of verbs (what `doit` alone prints)"""
    return {"actions": [lambda: print(TEXT, end="")], "io": {"capture": False}}
