"""CUDA graphs: a function's whole work on the GPU, recorded once and launched at once afterwards.

A training step is hundreds of kernels. Launched one by one, small ones take longer to launch than
to run, and the GPU waits for the host.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lmft.errors import first_line

logger = logging.getLogger(__name__)

Inputs = tuple[Tensor | None, ...]
Shapes = tuple[torch.Size | None, ...]
Function = Callable[..., tuple[Tensor, ...]]
WARM_UPS = 2  # calls without a graph: the first one creates state, such as the optimizer's
WAITS = "called a synchronizing"  # in torch's warnings of calls that make the host wait
MOST_GRAPHS = 4  # each has a memory of its own for its inputs; the rest is shared


@dataclass(frozen=True)
class Recording:
    """A recorded call: the tensors that it reads and writes at each replay."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: tuple[Tensor, ...]

    def replay(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Run the recorded work on other inputs; the outputs hold until the next replay."""
        for own, new in zip(self.inputs, inputs, strict=True):
            if own is not None and new is not None:
                own.copy_(new)
        self.graph.replay()
        return self.outputs


class CudaGraphs:
    """The graphs of one function, by the shapes of its inputs.

    A replay computes what a call computes, bit for bit. Random numbers are those of the generator's
    seed at the time.
    """

    def __init__(self, function: Function):
        """Record nothing yet.

        Args:
            function: takes and returns tensors of one GPU; it may change others in place.
        """
        self._function = function
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[Shapes, Recording] = {}
        self._calls: Counter[Shapes] = Counter()
        self._works = True

    def find(self, inputs: Inputs) -> Recording | None:
        """Return the graph for inputs of these shapes; None if there is none and none can be.

        It is recorded once `WARM_UPS` calls of these shapes have been watched.
        """
        shapes = _shapes(inputs)
        if shapes in self._recordings:
            return self._recordings[shapes]
        ready = self._works and self._calls[shapes] >= WARM_UPS
        if ready and len(self._recordings) < MOST_GRAPHS:
            self._record(inputs)
        return self._recordings.get(shapes)

    @contextmanager
    def watch(self, inputs: Inputs) -> Iterator[None]:
        """Watch a call without a graph; one that makes the host wait can't be recorded."""
        shapes = _shapes(inputs)
        self._calls[shapes] += 1
        if not self._works or self._calls[shapes] != WARM_UPS:
            yield
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = [str(warning.message) for warning in caught if WAITS in str(warning.message)]
        if waits:
            self._give_up(waits[0])

    def _record(self, inputs: Inputs) -> None:
        torch.cuda.empty_cache()  # a graph's memory is its own
        own = tuple(None if tensor is None else tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = self._function(*own)
        except RuntimeError as error:  # such as out of memory; nothing has been computed
            self._give_up(first_line(error))
            torch.cuda.empty_cache()
        else:
            self._recordings[_shapes(inputs)] = Recording(graph, own, outputs)

    def _give_up(self, reason: str) -> None:
        self._works = False
        logger.info("steps are launched one operation at a time, not as CUDA graphs: %s", reason)


def _shapes(inputs: Inputs) -> Shapes:
    return tuple(None if tensor is None else tensor.shape for tensor in inputs)
