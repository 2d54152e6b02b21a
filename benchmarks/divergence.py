"""What the benchmarks of quality share: the text that is measured on, Hugging Face's logits there, a product's figures.

The text is `pipeline.verify.text.evaluation_text`; `refuse_calibration` checks the token ids themselves, so that no
file that a person calibrates on can hold what is measured.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.build.store import Store
from pipeline.calibrate.text import sequences
from pipeline.mnn.runner import Engine
from pipeline.recipe.compose import compose
from pipeline.source.resolve import resolve
from pipeline.verify.huggingface import load_model, load_tokenizer, sequence_logits
from pipeline.verify.metrics import Logits, compare_logits, log_softmax
from pipeline.verify.text import evaluation_text

ROOT = Path(__file__).resolve().parents[1]
CHARACTERS_PER_TOKEN = 24  # far more than any tokenizer needs: tokenizing all 100 kB is slow on some
SHARED = 24
"""Tokens in a row that calibration and measurement must not share; shorter runs are the language's own phrases."""
QUANTISING = ("statistics", "sensitivity", "awq", "gptq", "weights")

Ids = list[list[int]]


class Quiet:
    """A log that nobody reads."""

    def progress(self, done: int, total: int, what: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def evaluation_ids(product: Path, count: int, length: int) -> Ids:
    """`count` runs of `length` token ids, spread over the evaluation text, as the product's own tokenizer cuts it."""
    with Engine(product) as engine:
        ids = engine.tokenize(evaluation_text()[: CHARACTERS_PER_TOKEN * count * length])
    step = len(ids) // count
    return [ids[number * step : number * step + length] for number in range(count)]


def refuse_calibration(measured: Ids, calibration: Iterable[Sequence[int]]) -> None:
    """Raises SystemExit if a run of SHARED tokens is in both: such figures would flatter calibrated algorithms."""
    seen = {window for run in calibration for window in _windows(run)}
    if any(window in seen for run in measured for window in _windows(run)):
        raise SystemExit("the measured text is in the calibration text: give another quant.calibration.text")


def _windows(run: Sequence[int]) -> Iterable[tuple[int, ...]]:
    return (tuple(run[start : start + SHARED]) for start in range(len(run) - SHARED + 1))


def reference_logits(folder: Path, model: str, overrides: Sequence[str], ids: Ids) -> Logits:
    """Hugging Face's logits in float32, [tokens, vocabulary], kept in `folder` for the next run."""
    path, key = folder / "reference.npy", folder / "reference.json"
    wanted = json.dumps([model, *overrides, ids])
    if not (path.exists() and key.exists() and key.read_text() == wanted):
        with tempfile.TemporaryDirectory() as scratch:
            loaded = load_model(model_folder(model, overrides, Path(scratch)), {})
        np.save(path, np.concatenate([sequence_logits(loaded, run) for run in ids]))
        key.write_text(wanted)
    return np.asarray(np.load(path, mmap_mode="r"))


def model_folder(model: str, overrides: Sequence[str], folder: Path) -> Path:
    """`folder`, filled with links to the model's own files."""
    (recipe,) = compose([f"model={model}", *overrides])
    for name, file in resolve(recipe.config["model"], ROOT / "artifacts" / ".cache", Quiet()).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(file.path)
    return folder


def figures(product: Path, ids: Ids, reference: Logits, runtime: Mapping[str, Any]) -> dict[str, float]:
    """KL divergence (nats a token), its 99th percentile, top-1 agreement and perplexity on the engine."""
    with Engine(product, runtime) as engine:
        logits = np.concatenate([engine.logits(run) for run in ids])
    agreement = compare_logits(reference, logits)
    return {
        "KLD": agreement.kld_mean,
        "KLD p99": agreement.kld_p99,
        "top-1": agreement.top1,
        "perplexity": perplexity(logits, ids),
    }


def perplexity(logits: Logits, ids: Ids) -> float:
    """exp of the mean negative log-probability of each run's next tokens."""
    total, count, row = 0.0, 0, 0
    for run in ids:
        for start in range(0, len(run) - 1, 64):
            stop = min(start + 64, len(run) - 1)
            chances = log_softmax(logits[row + start : row + stop].astype(np.float64))
            total -= float(chances[np.arange(stop - start), run[start + 1 : stop + 1]].sum())
        count, row = count + len(run) - 1, row + len(run)
    return float(np.exp(total / count))


def speeds(
    cases: Mapping[str, tuple[Path, Mapping[str, Any]]], prompt: Sequence[int], tokens: int = 32, repeats: int = 3
) -> dict[str, dict[str, float]]:
    """Tokens per second by case (prefill of `prompt`, then decode), medians over repeats in which all take turns."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (product, runtime) in cases.items():
            with Engine(product, runtime) as engine:
                samples[name].append(_speed(engine, prompt, tokens))
    columns = ("prefill tok/s", "decode tok/s")
    medians = {name: np.median(one, axis=0).tolist() for name, one in samples.items()}
    return {name: dict(zip(columns, pair, strict=True)) for name, pair in medians.items()}


def _speed(engine: Engine, prompt: Sequence[int], tokens: int) -> tuple[float, float]:
    engine.prefill(list(prompt)[:8])  # the first call makes the engine's buffers
    begun = time.perf_counter()
    engine.prefill(list(prompt))
    middle = time.perf_counter()
    for number in range(tokens):
        engine.step(prompt[number])
    return len(prompt) / (middle - begun), tokens / (time.perf_counter() - middle)


def calibration_ids(product: Path, store: Path) -> Ids:
    """The token ids that the product was calibrated on."""
    manifest = json.loads((product / "manifest.json").read_text(encoding="utf-8"))
    calibration = manifest["config"]["quant"]["calibration"]
    if calibration["text"] == "self":
        record = Store(store).find("selftext", manifest["stages"]["selftext"]["key"])
        assert record is not None
        blob = Store(store).blob_path(record.files["selftext.json"].sha256)
        return [list(run) for run in json.loads(blob.read_text(encoding="utf-8"))]
    model = manifest["config"]["model"]
    with tempfile.TemporaryDirectory() as scratch:
        place = [f"model.path={model['path']}"] if model.get("path") else []
        tokenizer = load_tokenizer(model_folder(model["name"], place, Path(scratch)))
    return sequences(tokenizer, calibration)


def quantising_seconds(product: Path, store: Path) -> float:
    """Wall seconds of the stages that make this product's weights, as the store noted them when they ran."""
    keys = json.loads((product / "manifest.json").read_text(encoding="utf-8"))["stages"]
    records = [Store(store).find(stage, keys[stage]["key"]) for stage in QUANTISING if stage in keys]
    return sum(record.seconds for record in records if record is not None)


def size(product: Path) -> dict[str, float]:
    """Bytes of the weight file (a tied head is the embedding too), and bits per weight of all linears."""
    graph = json.loads((product / "llm.mnn.json").read_text(encoding="utf-8"))
    shapes = [op["main"]["common"] for op in graph["oplists"] if op["type"] == "Convolution"]
    weights = sum(shape["inputCount"] * shape["outputCount"] for shape in shapes)
    size_ = (product / "llm.mnn.weight").stat().st_size
    return {"bytes": size_, "bpw": 8 * size_ / weights}
