"""Hugging Face modelling code → a graph without weights, and where each weight of it is in the checkpoint."""
