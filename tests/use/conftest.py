"""The verbs are tried on the same tiny product as the runner."""

from tests.mnn.conftest import model, product

__all__ = ["model", "product"]
