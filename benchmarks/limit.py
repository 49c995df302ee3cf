"""How near a step comes to what the machine can do."""

import time

SIZE = 2048  # rows and columns of the matrices


def product_rate(precision: str) -> float:
    """Operations a second of a matrix product in this precision, the best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    one, other = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (one @ other)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / min(seconds)


def operations(parameters: float, layers: float, hidden: float, block: int, tokens: int) -> float:
    """Of a causal model's optimizer step on `tokens` tokens in blocks of `block`.

    Each weight takes 6 a token: a product and a sum forward, twice that backward. Attention takes
    12·layers·hidden·block a token, of which the causal half is counted.
    """
    return tokens * (6 * parameters + 6 * layers * hidden * block)
