"""Calibration text that the model writes itself: its answers to a few plain questions, sampled with a seed.

What a model says is nearer to what it will be run on than any prose that happens to be at hand (LLM-QAT, Liu et al.
2023, generate their data for the same reason). All sequences grow together, one token a step, so nothing is padded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.calibrate.statistics import Progress

TEMPERATURE = 0.8
QUESTIONS = (
    "Explain how a refrigerator keeps food cold.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "What were the main causes of the First World War?",
    "Write a Python function that counts the words of a text file, and explain it.",
    "Give me a recipe for vegetable soup for four people.",
    "What is the difference between a virus and a bacterium?",
    "Plan a weekend in a city by the sea with two children.",
    "Summarise the rules of chess for a beginner.",
    "Why does the moon have phases?",
    "Write a polite letter that asks a landlord to repair a window.",
    "Compare solar and wind power, with three advantages of each.",
    "A train travels 180 km in two hours and 45 km in half an hour. What is its average speed? Show the steps.",
    "How does a bill become a law?",
    "Describe the water cycle as if to a ten-year-old.",
    "List ten ideas for a birthday present for a friend who likes books, and say why.",
    "What should I know before I adopt a dog?",
)


def write(
    model: Any, tokenizer: Any, stop_ids: Sequence[int], count: int, length: int, seed: int, progress: Progress
) -> list[list[int]]:
    """`count` sequences of `length` token ids: chats in the model's own template, or free text for models without one.

    model: transformers' causal language model with all its weights. Same seed, same ids on the same kind of CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    openings = _openings(tokenizer, int(model.config.get_text_config().vocab_size), seed)
    forced = [list(openings[row % len(openings)]) for row in range(count)]
    turns = list(range(count))
    texts: list[list[int]] = [[] for _ in range(count)]
    past, logits = None, None
    for step in range(length):
        drawn: list[int] | None = None if logits is None else _drawn(logits, generator)
        for row, text in enumerate(texts):
            if drawn is not None and not forced[row]:
                forced[row] = [drawn[row]]
                if drawn[row] in stop_ids:
                    turns[row] += count
                    forced[row] += openings[turns[row] % len(openings)]
            text.append(forced[row].pop(0))
        last = torch.tensor([[text[-1]] for text in texts])
        with torch.inference_mode():
            state = model(input_ids=last, past_key_values=past, use_cache=True)
        past, logits = state.past_key_values, state.logits[:, -1]
        progress(step + 1, length, "tokens")
    return texts


def _drawn(logits: torch.Tensor, generator: torch.Generator) -> list[int]:
    chances = torch.softmax(logits.float() / TEMPERATURE, -1)
    return [int(token) for token in torch.multinomial(chances, 1, generator=generator)[:, 0]]


def _openings(tokenizer: Any, vocabulary: int, seed: int) -> list[list[int]]:
    """What a sequence begins with: a question in the template; without one, a token drawn from the vocabulary."""
    draw = random.Random(seed)
    if not getattr(tokenizer, "chat_template", None):
        return [[draw.randrange(vocabulary)] for _ in range(64)]
    questions = draw.sample(QUESTIONS, len(QUESTIONS))
    chats = [[{"role": "user", "content": question}] for question in questions]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return [[int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]] for text in rendered]
