"""`python -m pipeline ask MODEL "question"`: the Hugging Face model's own greedy answer, and a product's beside it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.media.prompt import without_media
from pipeline.recipe import adapter_paths
from pipeline.use.settings import check_keys, overrides, positive

_STORE = Path("artifacts") / ".cache"


@dataclass(frozen=True)
class Comparison:
    """Two greedy answers to the same prompt ids. parted: index of the first token that differs, None if none does."""

    prompt: list[int]
    reference: list[int]
    product: list[int]
    parted: int | None


class _Notes:
    """A stage's log for a person at the terminal: downloads are worth a line, progress is not."""

    def progress(self, done: int, total: int, what: str) -> None:
        """Nothing to draw."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Prints the answer; with --against, both and the token where they part. Exit code 0 whether or not they do."""
    options = _parse(arguments)
    if without_media(options.question) != options.question:
        raise UserError("ask compares answers to text only", "use `python -m pipeline run` for pictures and sounds")
    recipe = _recipe(options.model, options.overrides)
    with tempfile.TemporaryDirectory(prefix="ask-") as scratch:
        reference = _Reference(recipe, Path(scratch))
        prompt = reference.prompt(options.question)
        ids, text = reference.answer(prompt, options.max_new_tokens)
        if options.against is None:
            print(text)
            return 0
        comparison, other = _against(options, prompt, ids)
        print(_page(text, other, comparison, reference.tokenizer))
    return 0


def part(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first difference of two token sequences; None if they are equal."""
    shared = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if shared is None and len(first) != len(second):
        return min(len(first), len(second))
    return shared


class _Reference:
    """The recipe's model, loaded by transformers from links in `folder`."""

    def __init__(self, recipe: Mapping[str, Any], folder: Path) -> None:
        import torch
        import transformers

        from pipeline.verify import huggingface

        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(int(recipe["verify"]["threads"]))
        self._huggingface = huggingface
        model, adapter = recipe["model"], recipe["adapter"]
        source, lora = _links(recipe, folder)
        self.tokenizer = huggingface.load_tokenizer(source, trust_remote_code=bool(model["trust_remote_code"]))
        self._model = huggingface.load_model(source, model, lora, float(adapter["weight"]))

    def prompt(self, question: str) -> list[int]:
        """The ids that the answer continues: the question through the model's chat template."""
        from pipeline.verify.reference import prompt_ids

        return prompt_ids(self.tokenizer, question)

    def answer(self, prompt: list[int], limit: int) -> tuple[list[int], str]:
        """(new ids, text)."""
        stops = self._huggingface.stop_ids(self._model, self.tokenizer)
        found = self._huggingface.greedy(self._model, self.tokenizer, prompt, stops, limit)
        return found.ids, found.text


def _recipe(model: str, extra: Sequence[str]) -> Mapping[str, Any]:
    """The one recipe that `MODEL key=value …` names: a path is a model of its own, anything else is in conf/model."""
    from pipeline.recipe.compose import compose

    is_path = Path(model).expanduser().exists()
    chosen = ["model=local", f"model.path={Path(model).expanduser()}"] if is_path else [f"model={model}"]
    recipes = compose([*chosen, *extra])
    if len(recipes) != 1:
        raise UserError(f"this asks {len(recipes)} models at once", "leave the commas out")
    return recipes[0].config


def _links(recipe: Mapping[str, Any], folder: Path) -> tuple[Path, Path | None]:
    """(the model's files, the adapter's files or None) as links below `folder`."""
    from pipeline.source.resolve import resolve, resolve_adapter

    cache = Path(recipe["cache"]["dir"] or _STORE)
    cache.mkdir(parents=True, exist_ok=True)
    source = _link(resolve(recipe["model"], cache, _Notes()).files, folder / "source")
    if recipe["adapter"]["mode"] == "none":
        return source, None
    return source, _link(resolve_adapter(_one_adapter(recipe["adapter"]), cache, _Notes()).files, folder / "adapter")


def _one_adapter(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """An answer needs no split: a single split adapter is merged; of several, one has to be chosen."""
    parts = adapter_paths.parse(str(adapter["path"]))
    if adapter["mode"] == "split" and len(parts) > 1:
        raise UserError("adapter.path: split adapters answer one at a time", "give one of them")
    path = str(replace(parts[0], name="")) if adapter["mode"] == "split" else adapter["path"]
    return {**adapter, "mode": "merge", "path": path}


def _link(files: Mapping[str, Any], folder: Path) -> Path:
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(file.path).resolve())
    return folder


def _against(options: argparse.Namespace, prompt: list[int], ids: list[int]) -> tuple[Comparison, str]:
    from pipeline.mnn.runner import Engine

    check_keys(options.against)
    with Engine(options.against, overrides(options.assignments)) as engine:
        found = engine.generate(prompt, options.max_new_tokens)
        kept = found[:-1] if found[-1] in engine.product.stop_ids else found
        return Comparison(prompt, ids, found, part(ids, found)), engine.detokenize(kept) if kept else ""


def _page(text: str, other: str, comparison: Comparison, tokenizer: Any) -> str:
    lines = [f"Hugging Face: {text}", f"product:      {other}"]
    where = comparison.parted
    if where is None:
        return "\n".join([*lines, f"All {len(comparison.reference)} tokens are equal."])
    sides = [_token(ids, where, tokenizer) for ids in (comparison.reference, comparison.product)]
    return "\n".join([*lines, f"They part at token {where + 1}: {sides[0]} against {sides[1]}."])


def _token(ids: Sequence[int], where: int, tokenizer: Any) -> str:
    return json.dumps(tokenizer.decode([ids[where]]), ensure_ascii=False) if where < len(ids) else "the end"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline ask", description=__doc__)
    parser.add_argument("model", help="a model of conf/model, or the path of a folder or a .gguf file")
    parser.add_argument("question")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys, e.g. adapter.path=…")
    parser.add_argument("--max-new-tokens", type=positive, default=128)
    parser.add_argument("--against", type=Path, metavar="PRODUCT", help="show a product's answer beside it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                        help="config.json keys of the product for this session")  # fmt: skip
    return parser.parse_args(list(arguments))
