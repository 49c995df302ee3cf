"""The loss: whatever the head, chunk by chunk gives what whole logits give."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from lmft.config.schema import Precision
from lmft.hardware.device import Hardware
from lmft.model import loss
from lmft.model import loss as products
from lmft.model.loss import mean_nats, target_nats
from lmft.model.mixed_precision import build_network
from lmft.objective import IGNORED, Batch

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


def build(kind):
    known = AutoConfig.for_model(kind)
    sizes = {key: value for key, value in SIZES.items() if hasattr(known, key)}
    config = AutoConfig.for_model(kind, **{**sizes, **{**CAUSAL, **MASKED}[kind]})
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if kind in CAUSAL else AutoModelForMaskedLM
    return auto.from_config(config).eval()


def measure(network, head, batch):
    network.zero_gradients()
    mean, nats = mean_nats(network.compute, head, batch, batch.num_targets)
    mean.backward()
    network.gradients_to_fp32()
    named = network.model.named_parameters()  # in fp32, whatever computed them
    gradients = {name: w.grad.clone() for name, w in named if w.grad is not None}
    return mean.detach(), nats, target_nats(network.compute, head, batch), gradients


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_chunks_give_the_loss_and_the_gradients_of_whole_logits(kind, precision, monkeypatch):
    size = 4 if precision is Precision.fp32 else 2
    monkeypatch.setattr(loss, "CHUNK", 97 * size * 7)  # seven rows, three of them at once
    monkeypatch.setattr(products, "SLICE", 40)
    monkeypatch.setattr(loss, "SCORED", 97 * size * 5)
    monkeypatch.setitem(loss.PART, "cpu", 97 * 3)
    hardware = Hardware(torch.device("cpu"), precision, 4, False, False)
    network = build_network(build(kind), hardware)
    assert network.head is not None
    ids = torch.randint(3, 97, (3, 16))
    targets = torch.randint(3, 97, (3, 16)).masked_fill(torch.rand(3, 16) < 0.3, IGNORED)
    batch = Batch(ids, targets)
    mean, nats, each, gradients = measure(network, network.head, batch)
    plain_mean, plain_nats, plain_each, plain_gradients = measure(network, None, batch)
    close = 1e-5 if precision is Precision.fp32 else 1e-2
    assert torch.allclose(mean, plain_mean, rtol=close)
    assert torch.allclose(nats, plain_nats, rtol=close)
    assert torch.allclose(each, plain_each, rtol=close, atol=close)
    assert gradients.keys() == plain_gradients.keys()
    whole = torch.cat([g.flatten() for g in plain_gradients.values()])
    ours = torch.cat([gradients[name].flatten() for name in plain_gradients])
    assert float((whole - ours).norm() / whole.norm()) < close
