"""The cross-entropy of a row of logits and its gradient, in Triton's language."""

import triton
import triton.language as tl


@triton.jit
def _tanh(values):
    return 2 * tl.sigmoid(2 * values) - 1


@triton.jit
def cross_entropy(
    logits,  # (N, V), in rows `stride` apart
    targets,  # (N,) int64; negative where a row is not scored
    nats,  # (N,) fp32
    stride,
    scale,
    softcap,
    VOCABULARY: tl.constexpr,
    LOWEST: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    WRITES_GRADIENT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    is_scored = target >= 0
    at_target = tl.load(logits + tl.maximum(target, 0)).to(tl.float32) * scale
    if HAS_SOFTCAP:
        at_target = softcap * _tanh(at_target / softcap)
    # Of each column of a part; they are combined once, at the end.
    largest = tl.full((COLUMNS,), LOWEST, tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, VOCABULARY, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = columns < VOCABULARY
        values = tl.load(logits + columns, mask=inside, other=0.0).to(tl.float32) * scale
        if HAS_SOFTCAP:
            values = softcap * _tanh(values / softcap)
        values = tl.where(inside, values, -float("inf"))
        new_largest = tl.maximum(largest, values)
        total = total * tl.exp(largest - new_largest) + tl.exp(values - new_largest)
        largest = new_largest
    most = tl.max(largest, 0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(largest - most), 0))
    tl.store(nats + row, tl.where(is_scored, log_sum - at_target, 0.0))
    if WRITES_GRADIENT:
        for start in range(0, VOCABULARY, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            inside = columns < VOCABULARY
            values = tl.load(logits + columns, mask=inside, other=0.0).to(tl.float32) * scale
            slope = scale
            if HAS_SOFTCAP:
                tanh = _tanh(values / softcap)
                values = softcap * tanh
                slope = scale * (1 - tanh * tanh)
            gradient = tl.exp(values - log_sum) - tl.where(columns == target, 1.0, 0.0)
            gradient = tl.where(is_scored, gradient * slope, 0.0)
            tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=inside)
