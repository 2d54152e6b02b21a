"""Overrides → recipes: Hydra parses and composes, the dataclasses check. hydra is imported when `compose` is called.

`hydra.compose()` takes 77–97 ms for each recipe, nearly all of it for Hydra's own `hydra:` node. The lean path leaves
that node out (8 ms); it uses internals that Hydra may move, so it falls back to the public way, and a test holds the
two equal.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.recipe import naming, paths, typed, validate
from pipeline.recipe.budget import apply_budget
from pipeline.recipe.conf import GROUPS, SHIPPED, Stamp, conf_dirs, stamp, yaml_files
from pipeline.recipe.overrides import is_text, prepare, quote, split
from pipeline.recipe.schema import Recipe
from pipeline.recipe.unknown import refuse_early, refuse_unknown_options

CONFIG_NAME = "config"


@dataclass(frozen=True)
class Composed:
    """One recipe, complete and checked, with where it came from.

    config: the whole recipe as nested plain dicts (JSON-able), defaults filled in, paths absolute, `name` set.
    overrides: the key=value texts of this recipe alone (a sweep's expanded). choices: group → chosen option.
    notes: lines that a person should see (slow bit widths and the like); no error.
    """

    config: dict[str, Any]
    overrides: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The config as dataclasses."""
        return typed.build(Recipe, self.config)

    @property
    def name(self) -> str:
        """The product's folder under artifacts/."""
        return str(self.config["name"])


def compose(overrides: Sequence[str], folders: Sequence[Path] | None = None, cwd: Path | None = None) -> list[Composed]:
    """Every recipe of a request, sweeps expanded in order. Relative paths in overrides start at `cwd`.

    Raises UserError: unknown option, key or type, bad grammar, an impossible combination, two recipes of one name.
    """
    prepared = prepare(overrides)
    start = cwd or Path.cwd()
    places = tuple(folders) if folders is not None else tuple(conf_dirs(cwd=start))
    refuse_early(prepared, places)
    loader = _loader(places, stamp(yaml_files(places)))
    composed = [_finish(loader, job, start) for job in loader.expand(prepared)]
    naming.refuse_collisions([(one.name, one.overrides) for one in composed])
    return composed


@functools.lru_cache(maxsize=4)
def _loader(folders: tuple[Path, ...], state: Stamp) -> _Loader:
    """One loader as long as no YAML below `folders` changes (`state` is their stamp)."""
    return _Loader(list(folders))


def _finish(loader: _Loader, job: list[str], cwd: Path) -> Composed:
    raw, choices = loader.compose(job)
    recipe = _checked(raw, choices)
    recipe.name = recipe.name or naming.product_name(recipe, _difference(loader, job, recipe))
    naming.refuse_bad_name(recipe.name)
    explicit = {split(text)[0] for text in job}
    if recipe.model.path and "model.hub" not in explicit:
        recipe.model.hub = "local"  # a path that is given is what the person means, whatever the model's YAML says
    paths.make_absolute(recipe, cwd)
    validate.apply_target(recipe, explicit)
    apply_budget(recipe, explicit)
    validate.validate(recipe)
    shown = tuple(text.removeprefix("++") for text in job)
    return Composed(typed.plain(recipe), shown, choices, tuple(validate.notes(recipe)))


def _checked(raw: dict[str, Any], choices: dict[str, str]) -> Recipe:
    recipe = typed.build(Recipe, raw)
    recipe.model.name = recipe.model.name or choices["model"]
    recipe.quant.name = recipe.quant.name or choices["quant"]
    recipe.target.name = recipe.target.name or choices["target"]
    return recipe


def _difference(loader: _Loader, job: list[str], recipe: Recipe) -> dict[str, Any]:
    """What the job's overrides changed, beyond what the name already says; {} without composing if they cannot have."""
    if all(naming.said_elsewhere(split(text)[0]) for text in job):
        return {}
    named = tuple(text for text in job if split(text)[0] in ("model", "quant"))
    if named not in loader.baselines:
        loader.baselines[named] = typed.plain(_checked(*loader.compose(list(named))))
    return naming.difference(typed.plain(recipe), loader.baselines[named])


class _Loader:
    """Hydra's loader over our folders, one for all the recipes of a request."""

    def __init__(self, folders: list[Path]) -> None:
        from hydra import version
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        version.setbase("1.3")
        self.folders = folders
        self.search_path = _search_path(folders)
        self.loader = ConfigLoaderImpl(self.search_path)
        self.repository: Any = None
        self.baselines: dict[tuple[str, ...], dict[str, Any]] = {}

    def expand(self, overrides: list[str]) -> list[list[str]]:
        """One list of overrides for each recipe of the sweep; of a repeated key the last counts."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        values: dict[str, list[str]] = {}
        with translated(overrides):
            for override in OverridesParser.create(config_loader=self.loader).parse_overrides(overrides):
                key = str(override.get_key_element())
                values.pop(key, None)
                values[key] = [f"{key}={value}" for value in _swept(override)]
        return [list(job) for job in itertools.product(*values.values())]

    def compose(self, job: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """(plain resolved config, group choices) of one recipe."""
        refuse_unknown_options(job, self.folders)
        with translated(job):
            try:
                return self.lean(job)
            except (AttributeError, TypeError, ImportError):  # Hydra moved an internal: slower, equal, and tested
                return self.public(job)

    def lean(self, job: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Hydra's composition without its own node. May raise AttributeError, TypeError if Hydra changed."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra._internal.config_repository import CachingConfigRepository
        from hydra._internal.defaults_list import create_defaults_list
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        if self.repository is None:  # one for all recipes: each YAML is parsed once
            self.repository = CachingConfigRepository(self.loader.repository)
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(job)
        chosen = create_defaults_list(
            repo=self.repository,
            config_name=CONFIG_NAME,
            overrides_list=parsed,
            prepend_hydra=False,
            skip_missing=False,
        )
        config = copy.deepcopy(  # it shares nodes with the repository: overrides would stay for the recipes to come
            self.loader._compose_config_from_defaults_list(defaults=chosen.defaults, repo=self.repository)
        )
        OmegaConf.set_struct(config, True)
        ConfigLoaderImpl._apply_overrides_to_config(chosen.config_overrides, config)
        return _container(config), _choices(chosen.overrides.known_choices)

    def public(self, job: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The same by `hydra.compose()`."""
        from hydra import compose as hydra_compose
        from hydra._internal.hydra import Hydra
        from hydra.core.global_hydra import GlobalHydra
        from omegaconf import OmegaConf, open_dict

        GlobalHydra.instance().clear()
        try:
            Hydra.create_main_hydra2("pipeline", self.search_path)
            config = hydra_compose(CONFIG_NAME, overrides=job, return_hydra_config=True)
        finally:
            GlobalHydra.instance().clear()
        choices = _choices(OmegaConf.to_container(config.hydra.runtime.choices))
        with open_dict(config):
            del config["hydra"]
        return _container(config), choices


def _search_path(folders: list[Path]) -> Any:
    """Hydra's search path: the first folder that holds a file wins."""
    from hydra._internal.utils import create_config_search_path

    path = create_config_search_path(str(folders[-1] if folders else SHIPPED))
    for folder in reversed(folders[:-1]):
        path.prepend("user", f"file://{folder}", anchor="main")
    return path


def _swept(override: Any) -> list[str]:
    """The values that one parsed override stands for, as text of the override grammar."""
    if not override.is_sweep_override():
        return [str(override.get_value_element_as_str())]
    if not override.is_discrete_sweep():
        line = override.input_line.removeprefix("++")
        raise UserError(f"'{line}': a sweep needs separate values", "use a,b or range(start,stop,step)")
    if is_text(override.key_or_group):  # choice() drops its elements' quotes, and text would be read as numbers again
        return [quote(str(getattr(element, "text", element))) for element in override.sweep_iterator()]
    return list(override.sweep_string_iterator())


def _container(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return plain


def _choices(known: Any) -> dict[str, str]:
    return {group: str(known[group]) for group in GROUPS if known.get(group) is not None}


class translated:
    """Context: what Hydra, OmegaConf and YAML raise leaves it as a UserError of one line."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import yaml
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        if isinstance(error, (HydraException, OmegaConfBaseException)):
            raise UserError(_first_line(str(error)), "check the override's spelling and quotes") from None
        if isinstance(error, yaml.YAMLError):
            raise UserError(f"a YAML file under conf/ cannot be read: {' '.join(str(error).split())}") from None


def _first_line(message: str) -> str:
    return next(_lines(message), "the recipe cannot be composed")


def _lines(message: str) -> Iterator[str]:
    for line in message.splitlines():
        if line.strip():
            yield line.strip().replace("++", "", 1)
