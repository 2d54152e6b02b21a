"""A real adapter of SmolLM2, trained by PEFT for a few steps so that an answer visibly changes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

QUESTIONS = ("What is the capital of France?", "What is two plus three?", "Who wrote Hamlet?")


def train(model: Any, tokenizer: Any, answers: Sequence[str], folder: Path, steps: int = 12) -> Path:
    """Teaches the model to answer QUESTIONS with `answers`, saves the adapter, and leaves the model as it was."""
    torch.manual_seed(0)
    layers = list(range(model.config.num_hidden_layers // 2, model.config.num_hidden_layers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(
            r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], layers_to_transform=layers
        )
        peft = get_peft_model(model, config)
    texts = [_example(tokenizer, question, answer) for question, answer in zip(QUESTIONS, answers, strict=True)]
    optimiser = torch.optim.AdamW([value for value in peft.parameters() if value.requires_grad], lr=4e-3)
    for step in range(steps):
        ids, labels = texts[step % len(texts)]
        loss = peft(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    peft.save_pretrained(folder)
    peft.unload()
    return folder


def _example(tokenizer: Any, question: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels (the answer's tokens only) of one conversation, [1, tokens]."""
    asked = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    rest = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return torch.tensor([start + rest]), torch.tensor([[-100] * len(start) + rest])
