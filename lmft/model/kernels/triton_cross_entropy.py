"""The cross-entropy of a row of logits and its gradient, in Triton's language.

A row is read in parts of COLUMNS, and only its last part is masked: without a mask each thread
reads 8 logits of 16 bits at once, with one that ends at an odd vocabulary each logit alone.
"""

import triton
import triton.language as tl


@triton.jit
def _tanh(values):
    return 2 * tl.sigmoid(2 * values) - 1


@triton.jit
def _scale_and_cap(logits, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    values = logits.to(tl.float32) * SCALE
    if SOFTCAP is not None:
        values = SOFTCAP * _tanh(values / SOFTCAP)
    return values


@triton.jit
def _add_part(largest, total, values):
    # Of exp(largest - new_largest) and exp(values - new_largest) one is 1.
    smaller = tl.exp(-tl.abs(values - largest))
    total = tl.where(values > largest, total * smaller + 1.0, total + smaller)
    return tl.maximum(largest, values), total


@triton.jit
def _gradient(values, log_sum, is_target, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    gradient = (tl.exp(values - log_sum) - tl.where(is_target, 1.0, 0.0)) * SCALE
    if SOFTCAP is not None:
        gradient *= 1 - (values / SOFTCAP) * (values / SOFTCAP)
    return gradient


@triton.jit
def cross_entropy(
    logits,  # (N, V), in rows `stride` apart
    targets,  # (N,) int64; negative where a row is not scored
    nats,  # (N,) fp32
    stride,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    VOCABULARY: tl.constexpr,
    LOWEST: tl.constexpr,
    WRITES_GRADIENT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    is_scored = target >= 0
    # Read before the sums, at which all threads meet: later, one may have overwritten it.
    at_target = _scale_and_cap(tl.load(logits + tl.maximum(target, 0)), SCALE, SOFTCAP)
    WHOLE: tl.constexpr = VOCABULARY // COLUMNS * COLUMNS  # columns in whole parts
    last = WHOLE + tl.arange(0, COLUMNS)
    in_vocabulary = last < VOCABULARY
    # Of each column of a part; they are combined once, at the end.
    largest = tl.full((COLUMNS,), LOWEST, tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, WHOLE, COLUMNS):
        values = tl.load(logits + start + tl.arange(0, COLUMNS))
        largest, total = _add_part(largest, total, _scale_and_cap(values, SCALE, SOFTCAP))
    values = _scale_and_cap(tl.load(logits + last, mask=in_vocabulary, other=0.0), SCALE, SOFTCAP)
    values = tl.where(in_vocabulary, values, -float("inf"))
    largest, total = _add_part(largest, total, values)
    most = tl.max(largest, 0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(largest - most), 0))
    tl.store(nats + row, tl.where(is_scored, log_sum - at_target, 0.0))
    if WRITES_GRADIENT:
        for start in range(0, WHOLE, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values = _scale_and_cap(tl.load(logits + columns), SCALE, SOFTCAP)
            gradient = _gradient(values, log_sum, columns == target, SCALE, SOFTCAP)
            tl.store(logits + columns, tl.where(is_scored, gradient, 0.0))
        values = _scale_and_cap(tl.load(logits + last, mask=in_vocabulary), SCALE, SOFTCAP)
        gradient = _gradient(values, log_sum, last == target, SCALE, SOFTCAP)
        tl.store(logits + last, tl.where(is_scored, gradient, 0.0), mask=in_vocabulary)
