"""Peak rate of matrix products and FLOPs of a training step, for model FLOPs utilization."""

import time

SIZE = 2048  # rows and columns of the matrices


def product_rate(precision: str) -> float:
    """Return the FLOP/s of a matrix product in this precision, the best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    one, other = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (one @ other)[0, 0].item()  # .item() synchronizes with the GPU
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / min(seconds)


def operations(parameters: float, layers: float, hidden: float, block: int, tokens: int) -> float:
    """Return the FLOPs of a causal model's optimizer step on `tokens` tokens in blocks of `block`.

    Each weight costs 6 FLOPs per token: a multiplication and an addition in the forward pass, twice
    that in the backward pass. Full attention costs 12·layers·hidden·block per token; the causal
    half of it is counted.
    """
    return tokens * (6 * parameters + 6 * layers * hidden * block)
