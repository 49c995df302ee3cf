"""Tiny models of the architectures that lmft knows, without a tokenizer."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64,
    "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CAUSAL = {
    "gpt2": {}, "llama": {}, "qwen2": {}, "qwen3": {}, "mistral": {}, "phi": {}, "phi3": {},
    "gemma": {}, "gemma2": {"final_logit_softcapping": 3.0}, "gemma3_text": {},
    "gpt_neo": {"attention_types": [[["global"], 2]], "num_layers": 2, "num_heads": 2},
    "gpt_neox": {}, "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo2": {}, "stablelm": {}, "bloom": {"n_head": 2}, "starcoder2": {},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}, "glm": {}, "smollm3": {},
}  # fmt: skip
MASKED = {
    "bert": {}, "roberta": {}, "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2},
    "electra": {"embedding_size": 32}, "modernbert": {}, "albert": {"embedding_size": 16},
    "deberta-v2": {}, "xlm-roberta": {}, "camembert": {}, "mpnet": {},
}  # fmt: skip


def build_tiny(kind):
    """An untrained model of two layers and 97 tokens."""
    known = AutoConfig.for_model(kind)
    sizes = {key: value for key, value in SIZES.items() if hasattr(known, key)}
    config = AutoConfig.for_model(kind, **{**sizes, **{**CAUSAL, **MASKED}[kind]})
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if kind in CAUSAL else AutoModelForMaskedLM
    return auto.from_config(config).eval()
