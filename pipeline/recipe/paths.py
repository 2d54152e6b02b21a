"""Paths in a recipe: which keys hold them, absolute from the folder where the person typed, checked to be there."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.recipe import adapter_paths
from pipeline.recipe.schema import Recipe

# (section, key) of every path but adapter.path, which may hold several. doit changes into dodo.py's folder before it
# does anything, so a relative path would mean another folder than the one that the person saw.
KEYS = (("model", "path"), ("model", "gptq_path"), ("target", "mnnconvert"), ("cache", "dir"))

_WHAT = {
    "model.path": "the model's folder or .gguf file",
    "model.gptq_path": "the GPTQ checkpoint's folder",
    "target.mnnconvert": "the MNNConvert program",
}


def make_absolute(recipe: Recipe, cwd: Path) -> None:
    """Rewrite the recipe's paths in place: `~` expanded, relative ones started at `cwd`."""
    for section, key in KEYS:
        holder = getattr(recipe, section)
        setattr(holder, key, absolute(getattr(holder, key), cwd))
    recipe.adapter.path = adapter_paths.absolute(recipe.adapter.path, cwd)
    text = recipe.quant.calibration.text
    if text not in ("pydoc", "self"):
        recipe.quant.calibration.text = absolute(text, cwd)
    if "://" not in recipe.cache.remote:
        recipe.cache.remote = absolute(recipe.cache.remote, cwd)


def absolute(path: str, cwd: Path) -> str:
    """`path` from `cwd`, or "" for "". Symbolic links stay: people name things by their links."""
    if not path:
        return ""
    return str(Path(_normal(cwd / Path(path).expanduser())))


def _normal(path: Path) -> str:
    import os.path

    return os.path.normpath(path)


def refuse_missing(recipe: Recipe) -> None:
    """Raises UserError for the first path of the recipe that is not there. Not cached: files come and go."""
    for section, key in KEYS:
        name = f"{section}.{key}"
        value = getattr(getattr(recipe, section), key)
        if name in _WHAT and value and not Path(value).exists():
            raise UserError(f"{name}: {value} is not there", f"give {_WHAT[name]}")
    for one in adapter_paths.parse(recipe.adapter.path):
        if not Path(one.folder).exists():
            raise UserError(f"adapter.path: {one.folder} is not there", "give the LoRA adapter's folder")
    text = recipe.quant.calibration.text
    if text not in ("pydoc", "self") and not Path(text).is_file():
        raise UserError(f"quant.calibration.text: {text} is not a file", "give a text file, pydoc or self")
