"""The cross-entropy of a row of logits and its gradient, in Triton's language."""

import triton
import triton.language as tl


@triton.jit
def _tanh(values):
    return 2 * tl.sigmoid(2 * values) - 1


@triton.jit
def _load_logits(logits, columns, scale, VOCABULARY: tl.constexpr):
    return tl.load(logits + columns, mask=columns < VOCABULARY, other=0.0).to(tl.float32) * scale


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
        values = _load_logits(logits, columns, scale, VOCABULARY)
        if HAS_SOFTCAP:
            values = softcap * _tanh(values / softcap)
        values = tl.where(columns < VOCABULARY, values, -float("inf"))
        new_largest = tl.maximum(largest, values)
        total = total * tl.exp(largest - new_largest) + tl.exp(values - new_largest)
        largest = new_largest
    most = tl.max(largest, 0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(largest - most), 0))
    tl.store(nats + row, tl.where(is_scored, log_sum - at_target, 0.0))
    if WRITES_GRADIENT:
        for start in range(0, VOCABULARY, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            _replace_by_gradient(
                logits, columns, target, log_sum, scale, softcap, VOCABULARY, HAS_SOFTCAP
            )


@triton.jit
def _replace_by_gradient(
    logits,  # (V,), a row
    columns,  # (COLUMNS,), a part of it
    target,
    log_sum,
    scale,
    softcap,
    VOCABULARY: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
):
    values = _load_logits(logits, columns, scale, VOCABULARY)
    slope = scale
    if HAS_SOFTCAP:
        tanh = _tanh(values / softcap)
        values = softcap * tanh
        slope = scale * (1 - tanh * tanh)
    gradient = tl.exp(values - log_sum) - tl.where(columns == target, 1.0, 0.0)
    gradient = tl.where(target >= 0, gradient * slope, 0.0).to(logits.dtype.element_ty)
    tl.store(logits + columns, gradient, mask=columns < VOCABULARY)
