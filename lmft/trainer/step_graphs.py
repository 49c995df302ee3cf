"""Whole training steps as CUDA graphs: both passes, clipping, and the optimizer's update."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lmft.config.training_knobs import Precision, Strategy
from lmft.hardware.cuda_graphs import CudaGraphs
from lmft.hardware.device import Hardware
from lmft.model.device_batch import DeviceBatch
from lmft.model.loss import to_device
from lmft.model.network import Network
from lmft.objective import Batch
from lmft.optimizer import can_be_recorded, prepare_recording
from lmft.trainer.gradients import ROWS, DropoutSeeds, backpropagate, gradient_norm

Numbers = tuple[Tensor, Tensor]  # a step's nats () and the norm of its gradients ()


class StepGraphs:
    """The graphs of steps whose batch is a single micro-batch, by its shape."""

    def __init__(
        self, network: Network, optimizer: Optimizer, hardware: Hardware, max_norm: float | None
    ):
        """Record nothing yet; the optimizer's learning rates become tensors."""
        self._network, self._optimizer, self._max_norm = network, optimizer, max_norm
        self._hardware, self._graphs = hardware, CudaGraphs(self._take_step)
        prepare_recording(optimizer, hardware.device)

    def take_step(
        self, parts: list[Batch], seeds: DropoutSeeds, otherwise: Callable[[], Numbers]
    ) -> Numbers:
        """Take the step of a batch as a graph, or by `otherwise` where there is none (yet)."""
        # The mask of documents would be a tensor of the graph.
        is_whole = len(parts) == 1 and parts[0].positions is None
        if not is_whole or len(parts[0].inputs) > self._hardware.micro_batch_size:
            return otherwise()
        device, targets = self._hardware.device, max(1, parts[0].num_targets)
        batch = to_device(parts[0], self._network.head, device, ROWS)
        divisor = torch.full((), float(targets), device=device)
        inputs = (batch.inputs, batch.targets, batch.rows, divisor)
        recording = self._graphs.find(inputs)
        if recording is None:
            with self._graphs.watch(inputs):
                return otherwise()
        torch.manual_seed(seeds.of(0))
        nats, grad_norm = recording.replay(inputs)
        return nats, grad_norm

    def _take_step(
        self, inputs: Tensor, targets: Tensor, rows: Tensor | None, divisor: Tensor
    ) -> Numbers:
        batch, network = DeviceBatch(inputs, targets, rows), self._network
        nats = backpropagate(network, batch, divisor).double()
        grad_norm = gradient_norm(network.gradients())
        update_on_device(network, self._optimizer, nats, grad_norm, self._max_norm)
        network.zero_gradients()
        return nats, grad_norm


def record_steps(
    network: Network, optimizer: Optimizer, hardware: Hardware, max_norm: float | None
) -> StepGraphs | None:
    """Return the graphs of a run's steps; None where its steps can't be recorded.

    A loss scale is read by the host in each step, and recomputed activations restore the state of
    the random generator, which a graph does not.
    """
    can_record = (
        hardware.device.type == "cuda"
        and hardware.strategy is Strategy.none
        and hardware.precision is not Precision.fp16
        and not hardware.checkpoint_activations
        and can_be_recorded(optimizer)
    )
    return StepGraphs(network, optimizer, hardware, max_norm) if can_record else None


def update_on_device(
    network: Network,
    optimizer: Optimizer,
    nats: Tensor,
    grad_norm: Tensor,
    max_norm: float | None,
) -> None:
    """Clip gradients and update the weights, unless a number is not finite; the host reads none."""
    skip = ~(torch.isfinite(nats) & torch.isfinite(grad_norm))
    divisor = (grad_norm.double() / (max_norm or math.inf)).clamp(min=1.0)
    network.optimizer_step_on_device(optimizer, divisor.float(), skip.float())
