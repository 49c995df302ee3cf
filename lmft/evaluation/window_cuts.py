"""Where windows of texts begin and end: of the whole stream, or of each document."""

import numpy as np

Cut = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # texts, starts, ends, before


def cut_strided(lengths: np.ndarray, context: int, stride: int, prefix: int) -> Cut:
    """Return windows of `context` tokens, `stride` apart, with the prefix in front of each.

    The last window of a text is shorter, so that no token is lost.
    Without a prefix and with stride = context the windows are blocks, and the first token of each
    is not scored (clm). With a smaller stride, only the first token of the stream is not scored,
    and every token after the first window has at least context - stride tokens before it. With a
    prefix every token is scored.
    """
    room = context - prefix
    texts, numbers = _number(1 + np.maximum(0, -(-(lengths - room) // stride)))
    starts = numbers * stride
    return texts, starts, np.minimum(starts + room, lengths[texts]), np.full(len(texts), prefix)


def cut_rolling(lengths: np.ndarray, context: int, stride: int, prefix: int) -> Cut:
    """Return windows as `get_rolling_token_windows` of lm-evaluation-harness 0.4 cuts them.

    The prefix stands in front of each text. A window has context + 1 tokens, since the model does
    not read its last one, and each but the first scores `stride` new ones; the last window begins
    earlier, so that it has as much context. The harness has stride = context.
    """
    total, length = prefix + lengths, context + 1
    texts, numbers = _number(1 + np.maximum(0, -(-(total - length) // stride)))
    ends = np.minimum(length + numbers * stride, total[texts])
    starts = np.maximum(ends - length, 0)  # counted with the prefix
    return texts, np.maximum(starts - prefix, 0), ends - prefix, np.maximum(prefix - starts, 0)


def _number(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the text of each window, and the window's number in its text; (counts.sum(),) each."""
    texts = np.repeat(np.arange(len(counts)), counts)
    return texts, np.arange(len(texts)) - (np.cumsum(counts) - counts)[texts]
