"""Write a text while the model generates it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from lmft.evaluation.generation import cut_at, decode_after
from lmft.output.sanitize import REPLACEMENT


class TextStreamer(BaseStreamer):
    """Writes a text while it is generated, as `continue_texts` will return it.

    Withheld is what may be half a character, or the beginning of a text that ends it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: list[str],
        write: Callable[[str], Any],
    ):
        self._tokenizer, self._stops, self._write = tokenizer, stops, write
        self._prompt: np.ndarray | None = None
        self._ids: list[int] = []
        self._written = 0  # characters

    def put(self, value: Tensor) -> None:
        """Take the prompt (1, T), then one token (1,) at a time; write what is certain."""
        if self._prompt is None:
            self._prompt = value.reshape(-1).cpu().numpy()
            return
        self._ids += value.reshape(-1).tolist()
        text = self._text()
        beginnings = (stop[:n] for stop in self._stops for n in range(1, len(stop) + 1))
        held = max((len(start) for start in beginnings if text.endswith(start)), default=0)
        if not text.endswith(REPLACEMENT):
            self._write_until(text, len(text) - held)

    def end(self) -> None:
        """Write the rest."""
        text = self._text()
        self._write_until(text, len(text))

    def _text(self) -> str:
        assert self._prompt is not None
        return cut_at(self._stops, decode_after(self._prompt, np.array(self._ids), self._tokenizer))

    def _write_until(self, text: str, end: int) -> None:
        if end > self._written:
            self._write(text[self._written : end])
            self._written = end
