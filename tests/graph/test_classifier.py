"""What a cross-encoder's config.json says of its scores, in the spellings of transformers and sentence-transformers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig

from pipeline.errors import UserError
from pipeline.graph import classifier

ONE = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_labels_as_transformers_writes_them(labels: int) -> None:
    config = BertConfig(num_labels=labels, architectures=["BertForSequenceClassification"])
    for written in (config.to_diff_dict(), config.to_dict()):
        written.setdefault("architectures", config.architectures)
        assert classifier.labels(written) == labels
        assert classifier.is_cross_encoder(written) == (labels == 1)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"version": "4.1.0"}}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
    ],
)
def test_activation(keys: dict[str, Any], expected: str) -> None:
    assert classifier.activation({**ONE, **keys}) == expected


def test_refusals_say_why() -> None:
    with pytest.raises(UserError, match="3 classes"):
        classifier.check_cross_encoder({**ONE, "id2label": {"0": "a", "1": "b", "2": "c"}})
    with pytest.raises(UserError, match="no head that scores pairs"):
        classifier.check_cross_encoder({"architectures": ["BertModel"]})
    with pytest.raises(UserError, match=r"torch\.nn\.Tanh"):
        classifier.activation({**ONE, "sbert_ce_default_activation_function": "torch.nn.Tanh"})


def test_the_longest_pair() -> None:
    said = [classifier.longest(config) for config in ({"model_max_length": 512}, {"model_max_length": 10**30}, {})]
    assert said == [512, 0, 0]
