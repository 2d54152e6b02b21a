"""Wrong quant rules and budgets refused before the first stage, from the tensors' names and shapes alone.

The linears' names and sizes are exact only in layout.json, once the graph is traced: linears may be cut in two, experts
unstacked, prefixes differ. So only what is certain is refused here, of decoders whose names are all of the usual
kinds; the weights stage checks everything again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path

from pipeline.errors import UserError
from pipeline.recipe.headers import Headers, read_headers
from pipeline.recipe.schema import Recipe
from pipeline.weights.allocation import refuse_below
from pipeline.weights.layout import Layout, Linear
from pipeline.weights.precision import Precision, resolve
from pipeline.weights.rules import matching_rules, unmatched
from pipeline.weights.sizes import candidates, stored_bytes

PREFIX = re.compile(r"^(?:(?:model|language_model|text_model|thinker|bert)\.)*")
PREFIXES = (
    *("", "model.", "language_model.", "language_model.model.", "model.language_model.", "model.text_model."),
    *("thinker.model.", "bert."),
)
"""Where transformers keeps a decoder, in one kind of model or another; a checkpoint may say it otherwise."""
TOWER = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|multi_modal_projector|connector|talker|token2wav)\.")
LINEAR = re.compile(
    r"layers\.\d+\.(self_attn\.(q|k|v|o|qkv)_proj|mlp\.((gate|up|down|gate_up|c)_proj|c_fc|fc1|fc2))"
    r"|encoder\.layer\.\d+\.(attention\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)"
)
ENDS = re.compile(r"embed_tokens|lm_head|embeddings\.\w+_embeddings|pooler\.dense")
CUT = re.compile(r"(qkv|gate_up)_proj$")
"""Linears that the graph cuts into one for each of its outputs, named NAME.0, NAME.1, …"""
PIECES = ("", *(f".{number}" for number in range(4)))
HEAD = "lm_head"


def refuse_impossible(recipe: Recipe, store: Path) -> None:
    """Raises UserError for a rule that no linear can match, and for a budget below the least that is possible.

    Nothing to do, and no file is opened, for a recipe with neither. store: where headers are remembered.
    """
    quant = recipe.quant
    if not quant.rules and quant.target_bytes is None and quant.target_bpw is None:
        return
    headers = read_headers(recipe.model, store)
    stems = _matrices(headers) if headers else {}
    if headers is None or not stems or quant.algorithm == "source":
        return
    for rule in quant.rules:
        if not any(re.search(rule.pattern, name) for name in _possible_names(stems)):
            raise unmatched(rule.pattern, [*sorted(filter(LINEAR.search, stems)), HEAD])
    layout = _layout(recipe, headers, stems)
    if layout is not None:
        refuse_below(layout, asdict(quant), least_bytes(layout, recipe))


def _matrices(headers: Headers) -> dict[str, tuple[int, ...]]:
    """The decoder's matrices by name without its last part (weight, qweight, …); none if any is of an unusual name."""
    found = {
        name.rpartition(".")[0]: shape
        for name, shape in headers.shapes.items()
        if len(shape) > 1 and not TOWER.search(name)
    }
    linears = {stem for stem in found if LINEAR.fullmatch(_core(stem))}
    usual = all(stem in linears or ENDS.fullmatch(_core(stem)) for stem in found)
    return found if linears and usual else {}


def _core(stem: str) -> str:
    return PREFIX.sub("", stem)


def _possible_names(stems: Mapping[str, object]) -> Iterator[str]:
    """The likely ones first: most rules match one of them."""
    yield from stems
    yield HEAD
    for prefix, stem, piece in product(PREFIXES, stems, PIECES):
        yield prefix + _core(stem) + piece


def _layout(recipe: Recipe, headers: Headers, stems: Mapping[str, tuple[int, ...]]) -> Layout | None:
    """What layout.json will hold, as far as sizes go; None where that is not certain."""
    shapes = {stem: shape for stem, shape in stems.items() if LINEAR.fullmatch(_core(stem))}
    heads = [shape for stem, shape in stems.items() if _core(stem) in (HEAD, "embed_tokens")]
    numbers = {int(match[1]) for stem in shapes if (match := re.search(r"layers\.(\d+)\.", stem))}
    if not (headers.plain and numbers and heads and all(len(shape) == 2 for shape in (*shapes.values(), *heads))):
        return None
    if recipe.adapter.mode != "none" or recipe.model.gptq_path or headers.layers not in (None, len(numbers)):
        return None
    renamed = any(CUT.search(stem) or not stem.startswith("model.layers.") for stem in shapes)
    if recipe.quant.rules and renamed:
        return None
    sized = {**shapes, HEAD: stems.get(HEAD, heads[0])}
    return Layout(tuple(Linear(stem, shape[0], shape[1], ()) for stem, shape in sized.items()), lm_head=HEAD)


def least_bytes(layout: Layout, recipe: Recipe) -> int:
    """The least that `allocation.allocate` can reach: each linear at its cheapest, head and ruled ones as they are."""
    quant = asdict(recipe.quant)
    try:
        fixed = resolve(layout, quant)
    except UserError:  # a block that does not divide: the weights stage knows for which linears that matters
        return 0
    ruled = matching_rules([linear.name for linear in layout.linears], quant["rules"])
    return sum(
        stored_bytes(linear.out_features, linear.in_features, fixed[linear.name])
        if linear.name in ruled or linear.name == layout.lm_head
        else _cheapest(linear, recipe, fixed[linear.name])
        for linear in layout.linears
    )


def _cheapest(linear: Linear, recipe: Recipe, fixed: Precision) -> int:
    quant = recipe.quant
    choices = candidates(linear.in_features, recipe.target.fast_bits, quant.symmetric, quant.scale_bits)
    return min(stored_bytes(linear.out_features, linear.in_features, one) for one in (*choices, fixed))
