"""Tiny runs whose loss is not finite at some step."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

RUN = [
    "dataset.block_size=16", "trainer.batch_size=2", "trainer.epochs=1", "optimizer.lr=1e-3",
    "trainer.checkpoint_every=1", "hardware.precision=fp32", "trainer.evaluate_every=5",
]  # fmt: skip
RARE = "Z"


def small_gpt2(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64,
                        tie_word_embeddings=False)  # fmt: skip
    return GPT2LMHeadModel(config)


def saved(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["model=pretrained", f"model.name={folder}"]
