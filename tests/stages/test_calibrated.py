"""statistics, sensitivity and gptq between the real checkpoint, graph and weights stages, on a tiny random Llama."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.errors import UserError
from pipeline.recipe.compose import compose
from pipeline.recipe.conf import SHIPPED
from pipeline.recipe.early import refuse_impossible
from pipeline.stages import checkpoint, gptq, graph, places, selftext, sensitivity, statistics, weights
from pipeline.weights.calibrated import load_importance, load_solutions
from tests.stages.placing import placed
from tests.stages.test_weights import Recorder
from tests.weights.helpers import dequantised

STAGES = ("source", "checkpoint", "graph", "statistics", "sensitivity", "places", "gptq")
CONFIG: dict[str, Any] = {
    "model": {"trust_remote_code": False, "name": "tiny", "gptq_path": "", "allow_pickle": False,
              "task": "text", "pooling": ""},
    "adapter": {"mode": "none", "weight": 1.0, "path": ""},
    "graph": {"allow_approximate": False},
    "target": {"fast_bits": [4, 8, 16], "graph": {"fuse_c4": True}, "mnnconvert": ""},
    "quant": {
        "algorithm": "gptq", "bits": 4, "block": 32, "lm_bits": 8, "lm_block": None, "symmetric": False,
        "scale_bits": 16, "act_order": True, "rules": [], "target_bytes": None, "target_bpw": None, "max_kld": None,
        "calibration": {"text": "pydoc", "sequences": 2, "length": 48, "seed": 0},
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stages")
    folders = {name: root / name for name in STAGES}
    for folder in folders.values():
        folder.mkdir()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
    LlamaForCausalLM(config).save_pretrained(folders["source"])
    vocabulary = {chr(33 + number): number for number in range(160)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="!", eos_token="~")
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    fast.chat_template = turns + "{% if add_generation_prompt %}<a>{% endif %}"
    fast.save_pretrained(folders["source"])
    for stage in (checkpoint, graph, statistics, sensitivity, places, gptq):
        stage.run(CONFIG, folders, folders[stage.STAGE.name], Recorder())
    return folders


def built(folders: dict[str, Path], out: Path, names: tuple[str, ...], **quant: Any) -> dict[str, Any]:
    inputs = {name: folders[name] for name in ("source", "checkpoint", "graph", *names)}
    changed, log = {**CONFIG, "quant": {**CONFIG["quant"], **quant}}, Recorder()
    weights.run(changed, placed(changed, inputs, out, log), out, log)
    return json.loads((out / "weights.json").read_text())["linears"]  # type: ignore[no-any-return]


def test_every_linear_of_the_graph_is_covered(folders: dict[str, Path]) -> None:
    names = {linear["name"] for linear in json.loads((folders["graph"] / "layout.json").read_text())["linears"]}
    assert set(load_importance(folders["statistics"])) == names
    assert set(load_importance(folders["gptq"])) == names
    assert set(load_solutions(folders["gptq"])) == names - {"lm_head"}


def test_a_plan_knows_the_least_budget_of_the_stages(folders: dict[str, Path], tmp_path: Path) -> None:
    """By the headers alone: the same figure as from the graph and the measured table."""
    asked = ["model=local", f"model.path={folders['source']}", "quant=auto", "quant.block=32", "quant.target_bytes=1"]
    (composed,) = compose(asked, [SHIPPED], tmp_path)
    with pytest.raises(UserError) as early:
        refuse_impossible(composed.recipe, tmp_path)
    with pytest.raises(UserError) as late:
        built(folders, tmp_path, ("statistics", "sensitivity", "gptq"), target_bytes=1)
    least = [int(re.findall(r"[\d,]{4,}", str(error.value))[-1].replace(",", "")) for error in (early, late)]
    assert least[0] == least[1]


def test_gptq_codes_reach_the_weight_file(folders: dict[str, Path], tmp_path: Path) -> None:
    linears = built(folders, tmp_path, ("gptq",))
    blob = (tmp_path / weights.WEIGHT_FILE).read_bytes()
    for name, solution in load_solutions(folders["gptq"]).items():
        scale, zero = solution.read_scales()
        steps = solution.read_codes().astype(np.float32).reshape(len(scale), -1, 32) - 8
        expected = (steps * scale[:, :, None] + zero[:, :, None]).reshape(len(scale), -1)
        np.testing.assert_array_equal(dequantised(blob, linears[name]), expected)
    assert linears["lm_head"]["algorithm"] == "wmse" and linears["lm_head"]["bits"] == 8


def test_wmse_uses_the_statistics(folders: dict[str, Path], tmp_path: Path) -> None:
    """Less weighted error than mse, more plain error."""
    truth = LlamaForCausalLM.from_pretrained(folders["source"], dtype=torch.float32)
    importance = load_importance(folders["statistics"])
    found = {}
    for algorithm in ("wmse", "mse"):
        out = tmp_path / algorithm
        out.mkdir()
        linears = built(folders, out, ("statistics",), algorithm=algorithm)
        blob, sums = (out / weights.WEIGHT_FILE).read_bytes(), np.zeros(2)
        for name, entry in linears.items():
            square = np.square(dequantised(blob, entry) - truth.get_submodule(name).weight.detach().numpy())
            sums += (square * importance[name] / importance[name].mean()).sum(), square.sum()
        found[algorithm] = sums
    assert found["wmse"][0] < 0.995 * found["mse"][0]
    assert found["mse"][1] < found["wmse"][1]


def test_a_budget_is_kept_and_spent(folders: dict[str, Path], tmp_path: Path) -> None:
    linears = built(folders, tmp_path, ("statistics", "sensitivity"), algorithm="wmse", target_bpw=7)
    count = sum(entry["out_features"] * entry["in_features"] for entry in linears.values())
    used = 8 * sum(sum(entry["external"][1:3]) - entry["header_bytes"] for entry in linears.values()) / count
    assert 6.5 < used <= 7
    assert {entry["bits"] for entry in linears.values()} == {4, 8}


def calibrated(folders: dict[str, Path], out: Path, text: str) -> tuple[dict[str, np.ndarray], str]:
    """Importances and the stage's note, calibrated on `text`."""
    changed = {**CONFIG["quant"], "calibration": {"text": text, "sequences": 2, "length": 24, "seed": 3}}
    config, log = {**CONFIG, "quant": changed}, Recorder()
    inputs = dict(folders)
    out.mkdir()
    if text == "self":
        inputs["selftext"] = out.with_name(f"{out.name}-self")
        inputs["selftext"].mkdir()
        selftext.run(config, inputs, inputs["selftext"], log)
    statistics.run(config, inputs, out, log)
    return load_importance(out), log.notes[-1]


def test_every_kind_of_text_reaches_the_statistics(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same words as text and as a list give the same figures; a conversation gets the model's own template."""
    words = "what a quantiser looks at " * 8
    chat = {"messages": [{"role": "user", "content": words}]}
    files = {"a.txt": words, "a.json": json.dumps([words]), "a.jsonl": json.dumps(chat),
             "b.txt": f"<user>{words}", "c.jsonl": json.dumps({"text": words})}
    found = {}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        found[name], note = calibrated(folders, tmp_path / f"out-{name}", str(tmp_path / name))
        assert f"2 × 24 tokens of {tmp_path / name}" in note
    query = {name: one["model.layers.0.self_attn.q_proj"] for name, one in found.items()}
    assert np.array_equal(query["a.txt"], query["a.json"]) and np.array_equal(query["a.txt"], query["c.jsonl"])
    assert np.array_equal(query["a.jsonl"], query["b.txt"]) and not np.array_equal(query["a.jsonl"], query["a.txt"])


def test_text_that_the_model_writes_itself(folders: dict[str, Path], tmp_path: Path) -> None:
    """Seeded, so twice the same; it begins with a question in the template, and goes on with what the model draws."""
    first, note = calibrated(folders, tmp_path / "first", "self")
    second, again = calibrated(folders, tmp_path / "second", "self")
    assert note == again and "2 × 24 tokens of self" in note
    assert all(np.array_equal(first[name], second[name]) for name in first)
    written = json.loads((tmp_path / "first-self" / "selftext.json").read_text())
    assert [len(run) for run in written] == [24, 24] and written[0] != written[1]
    assert "".join(chr(33 + token) for token in written[0]).startswith("<user>")


def test_sampled_tokens_follow_the_model(folders: dict[str, Path]) -> None:
    """Without a template: every later token is likely under the model itself; far likelier than a uniform draw."""
    from pipeline.calibrate.selftext import write

    model = LlamaForCausalLM.from_pretrained(folders["source"], dtype=torch.float32).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(60)  # a random model is nearly uniform
    runs = write(model, object(), [], 6, 40, 1, lambda done, total, what: None)
    with torch.no_grad():
        chances = torch.log_softmax(model(torch.tensor(runs)).logits[:, :-1], -1)
    picked = chances.gather(2, torch.tensor(runs)[:, 1:, None])
    assert float(picked.mean()) > -0.7 * float(np.log(160))
