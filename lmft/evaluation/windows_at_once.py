"""How many windows `lmft evaluate` scores at once: what fits a fixed budget of memory.

Without gradients a forward pass keeps the tensors of one layer, so small models score many windows
at once. The number is decided by shapes alone, never by what is free, so it repeats.
"""

from torch import nn

from lmft.model.network import Network

# Bytes of activations at once. On a CPU larger batches are no faster (stories260k: 1.02 s with 8
# windows of 128 tokens, 0.93 s with 32 and 64, 1.00 s with 256): they leave its cache. On a GPU
# small ones would take longer to launch than to compute.
BUDGET = {"cpu": 2**26}
BUDGET_ELSEWHERE = 2**28

# The widest tensors of a layer alive at once, with room for narrower ones: MLPs with a gate take
# four, and attention and the residual stream about two more.
WIDEST_AT_ONCE = 6


def windows_at_once(network: Network, context: int) -> int:
    """Return the number of windows of `context` tokens whose activations fit into the budget."""
    budget = BUDGET.get(network.compute_model.device.type, BUDGET_ELSEWHERE)
    return max(1, budget // (context * token_bytes(network, context)))


def token_bytes(network: Network, context: int) -> int:
    """Estimate the bytes that a forward pass has at once per token, beside the chunk of logits."""
    model = network.compute_model
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    widths = [
        max(weight.shape[-2:])
        for module in model.modules()
        if module is not head and not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.dim() > 1
    ]
    elements = WIDEST_AT_ONCE * max(widths, default=config.hidden_size)
    if model.config._attn_implementation == "eager":  # whole attention scores, and their softmax
        elements += 3 * config.num_attention_heads * context
    if network.head is None:  # all logits, in fp32 too, and their log-softmax
        elements += 4 * config.vocab_size
    # fp32 whatever the model computes in: norms, masks and rotary embeddings do so as well.
    return elements * 4
