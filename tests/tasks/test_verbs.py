"""The other verbs on toy stages: plan, lock, verify, gc, clean, forget, list."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import save_file

from tests.tasks.project import Folder, end

ALL = ["checkpoint", "config", "graph", "link", "quality", "weights"]


def test_list_shows_every_verb_in_one_line(folder: Folder) -> None:
    code, out, err = folder.doit("list", recipe=False)
    assert (code, err) == (0, "")
    verbs = [line.split()[0] for line in out.splitlines()]
    assert verbs == ["export", "gc", "lock", "models", "plan", "quants", "usage", "verify"]
    assert all(len(line.split()) > 3 for line in out.splitlines())


def test_doit_alone_says_what_can_be_typed(folder: Folder) -> None:
    code, out, _ = folder.doit(recipe=False)
    assert code == 0 and out.startswith("doit export [model=")
    assert not folder.artifacts.exists()


def test_models_and_quants_come_from_conf(folder: Folder) -> None:
    assert "smollm2-135m " in folder.doit("models", recipe=False)[1]
    assert "int4 " in folder.doit("quants", recipe=False)[1]


def test_a_plan_that_cannot_be_is_one_line(folder: Folder) -> None:
    code, _, err = folder.doit("plan", "target=hexagon", "quant=auto")
    assert code == 3
    assert err.splitlines() == ["ERROR: quant.lm_bits=8: target 'hexagon' runs 4 bits only → try quant.lm_bits=4"]


def test_a_rule_or_a_budget_that_cannot_be_stops_plan_and_export(folder: Folder) -> None:
    names = [f"model.layers.0.{name}_proj.weight" for name in ("self_attn.q", "mlp.up")]
    save_file(
        {name: np.zeros((64, 64), np.float16) for name in (*names, "model.embed_tokens.weight")},
        folder.model / "model.safetensors",
    )
    for verb in ("plan", "export"):
        code, _, err = folder.doit(verb, "quant.rules=[{pattern: up_porj, bits: 8}]")
        assert (code, len(err.splitlines())) == (3, 1)
        assert err.startswith("ERROR: the rule 'up_porj' matches no linear of this model. Did you mean 'up_proj'?")
        code, _, err = folder.doit(verb, "quant=auto", "quant.target_bytes=5000")
        assert (code, len(err.splitlines())) == (3, 1)
        assert err.startswith("ERROR: quant.target_bytes=5,000 is below the least that this model can take, 8,9")
    assert not folder.calls_file.exists()


def test_a_plan_says_what_a_build_from_nothing_costs_before_anything_is_fetched(folder: Folder) -> None:
    code, out, err = folder.doit("plan", "model=qwen2.5-7b", "quant=int4", "verify=off", recipe=False)
    assert code == 0
    line = next(line for line in out.splitlines() if "from nothing about" in line)
    assert re.search(r"about 4\d\d\.\d MB of memory, 2\d\.\d GB of disk, \d+ s without verification", line)
    code, out, err = folder.doit("plan", "--json", "model=qwen2.5-7b", "verify=off", recipe=False)
    assert "was not fetched yet" in err
    plan = json.loads(out)  # nothing else there: machines read it
    assert plan["products"][0]["estimate"]["download"] > 14e9


def test_a_reader_that_has_enough_is_no_traceback(folder: Folder) -> None:
    command = f"{sys.executable} -m doit plan model=smollm2-135m,qwen2.5-7b quant=int4,int8,fp16 verify=off | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder.root, env=folder.environment(), capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert "BrokenPipe" not in done.stderr


def test_plan_and_its_json(folder: Folder) -> None:
    folder.doit("export")
    folder.calls  # noqa: B018
    code, out, err = folder.doit("plan", "quant.block=32")
    assert (code, err, folder.calls) == (0, "", [])
    line = next(line for line in out.splitlines() if line.split()[:2] == ["weights", "BUILD"])
    assert line.endswith("quant.block: 64 → 32")
    assert "HIT local" in out and out.startswith("toy: PUBLISH")
    code, out, _ = folder.doit("plan", "--json")
    product = json.loads(out)["products"][0]
    assert product["verdict"] == "up to date"
    assert {stage["verdict"] for stage in product["stages"]} == {"HIT local"}


def test_a_lock_is_written_and_held_to(folder: Folder) -> None:
    code, out, err = folder.doit("lock")
    assert (code, err) == (0, "") and "locked toy in pipeline.lock" in out
    assert folder.doit("export", "--locked")[0] == 0
    code, _, err = folder.doit("export", "--locked", "quant.block=32")
    assert (code, err) == (
        3,
        "ERROR: toy: pipeline.lock says quant.block 64, here it is 32 → "
        "write the lock anew (doit lock …), or restore what changed\n",
    )
    folder.calls  # noqa: B018
    folder.write_model("qwen2")
    code, _, err = folder.doit("export", "--locked")
    assert code == 3 and "pipeline.lock says source config.json" in err
    assert folder.calls == []


def test_a_lock_made_in_another_folder_passes(folder: Folder, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    folder.doit("lock")
    other = Folder(tmp_path_factory.mktemp("other"))
    (other.root / "pipeline.lock").write_bytes((folder.root / "pipeline.lock").read_bytes())
    code, _, err = other.doit("export", "--locked")
    assert (code, err) == (0, "")


def test_verify_finds_an_edited_product(folder: Folder) -> None:
    folder.doit("export")
    code, out, err = folder.doit("verify")
    assert (code, err) == (0, "") and "artifacts/toy passes" in out
    (folder.artifacts / "toy/llm.mnn").write_text("edited")
    code, _, err = folder.doit("verify")
    assert code == 1 and "artifacts/toy: llm.mnn differ from what the recipe makes" in err


def test_gc_keeps_what_products_came_from(folder: Folder) -> None:
    folder.doit("export")
    for path in (folder.artifacts / ".cache/ac").glob("*/*.json"):
        os.utime(path, (time.time() - 9999,) * 2)
    code, out, _ = folder.doit("gc", "--keep", "0", recipe=False)
    assert code == 0 and out.startswith("removed 0 records and 0 files")
    folder.doit("clean", recipe=False)
    code, out, _ = folder.doit("gc", "--keep", "0", "--dry-run", recipe=False)
    assert out.startswith("would remove 6 records and ")
    code, out, _ = folder.doit("gc", "--older-than", "1h", recipe=False)
    assert out.startswith("removed 6 records and ") and out.endswith("0 B stay\n")


def test_gc_waits_for_no_build_and_says_so(folder: Folder) -> None:
    folder.doit("export")
    process = folder.start("export", "-a", TOY_SECONDS="30")
    while not folder.workers():
        time.sleep(0.02)
    code, _, err = folder.doit("gc", recipe=False)
    assert (code, err) == (1, "ERROR: a build is running on this store → run doit gc when it has ended\n")
    end(process)


def test_clean_removes_products_and_nothing_else(folder: Folder) -> None:
    folder.doit("export")
    (folder.artifacts / "mine").mkdir()
    code, out, _ = folder.doit("clean", "-n", recipe=False)
    assert code == 0 and "would remove artifacts/toy\n" in out
    assert folder.content()
    code, out, _ = folder.doit("clean", recipe=False)
    assert code == 0 and "\nremoved artifacts/toy\n" in out
    assert sorted(path.name for path in folder.artifacts.iterdir()) == [".cache", "mine"]
    folder.calls  # noqa: B018
    assert folder.doit("export")[0] == 0
    assert folder.calls == []


def test_clean_of_one_recipe_leaves_the_others(folder: Folder) -> None:
    folder.doit("export")
    folder.doit("export", "name=other", *folder.sweep, recipe=False)
    folder.doit("clean", "export", "name=other", *folder.sweep, recipe=False)
    assert (folder.artifacts / "toy").is_dir() and not (folder.artifacts / "other").exists()


def test_forget_makes_the_stages_run_again(folder: Folder) -> None:
    folder.doit("export")
    folder.calls  # noqa: B018
    code, out, err = folder.doit("forget", "export")
    assert (code, err) == (0, "") and out.count("forgetting export:forget:") == 6
    assert folder.doit("export")[0] == 0
    assert sorted(folder.calls) == ALL


def test_forget_of_one_recipe_leaves_what_others_need_not_share(folder: Folder) -> None:
    folder.doit("export")
    folder.doit("export", "quant.block=32", "name=other", *folder.sweep, recipe=False)
    folder.doit("forget", "export", "quant.block=32", "name=other", *folder.sweep, recipe=False)
    folder.calls  # noqa: B018
    folder.doit("export")
    assert sorted(folder.calls) == ["checkpoint", "config", "graph", "link"]  # shared; weights of block 64 stayed


def test_forget_all(folder: Folder) -> None:
    folder.doit("export")
    assert folder.doit("forget", "-a", recipe=False)[0] == 0
    assert list((folder.artifacts / ".cache/ac").glob("*/*.json")) == []
