"""A model in training: its passes, gradients, updates and weights.

In mixed precision these are two models; `mixed_precision.py` builds them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.profiler import record_function
from transformers import PreTrainedModel

from lmft.adapter.adapter_files import adapter_tensors, is_adapted
from lmft.config.training_knobs import Strategy
from lmft.hardware.transfer import queues_work
from lmft.model.compilation import CompiledLayers
from lmft.model.lm_head import Head
from lmft.model.state_dict import read_tensors
from lmft.model.weights import load_weights
from lmft.optimizer import (
    can_skip_on_device,
    can_step_in_slices,
    take_step,
    take_step_in_slices,
    take_step_on_device,
)


@dataclass(frozen=True)
class Network:
    """A model in training: fp32 weights, and the model that runs forward and backward passes."""

    model: PreTrainedModel  # updated by the optimizer, and saved; what learns is in fp32
    compute_model: PreTrainedModel  # the low-precision copy; in fp32, and under FSDP, `model`
    head: Head | None  # of compute_model, if known
    strategy: Strategy = Strategy.none
    ddp: DistributedDataParallel | None = None  # wraps compute_model if the strategy is ddp
    recompute_hooks: AbstractContextManager[None] = nullcontext()  # to enter for forward passes
    compiled_layers: CompiledLayers | None = None  # of compute_model

    @property
    def models(self) -> list[PreTrainedModel]:
        """The model and, if there is one, its low-precision copy."""
        has_copy = self.compute_model is not self.model
        return [self.model, self.compute_model] if has_copy else [self.model]

    @property
    def wrapped_model(self) -> Any:
        """The model to call in training: compute_model, in its DDP wrapper if there is one."""
        return self.ddp or self.compute_model

    def compiled(self, whole: bool) -> AbstractContextManager[None]:
        """Use compiled layers inside, if there are any, for the steps of `whole` batches."""
        return self.compiled_layers.used() if whole and self.compiled_layers else nullcontext()

    @cached_property
    def low_precision_weights(self) -> dict[Tensor, Tensor]:
        """The low-precision copy of each weight that learns; empty if there is no copy."""
        if self.compute_model is self.model:
            return {}
        return {
            weight: low_precision
            for weight, low_precision in zip(
                self.model.parameters(), self.compute_model.parameters(), strict=True
            )
            if weight.requires_grad
        }

    @torch.no_grad()
    def update_low_precision(self) -> None:
        """Copy the fp32 weights to the low-precision model."""
        if weights := self.low_precision_weights:
            torch._foreach_copy_(list(weights.values()), list(weights))

    @contextmanager
    def gradient_accumulation(self, number: int, micro_batches: int) -> Iterator[None]:
        """Wrap the passes of micro-batch `number` (1 is the first) of a step's `micro_batches`.

        Gradients of several micro-batches add up in fp32; those of a single one stay in low
        precision. DDP reduces gradients in the last backward pass, except where low-precision
        gradients of several micro-batches must first add up in fp32.
        """
        with ExitStack() as stack:
            if self.ddp is not None and (
                number < micro_batches or self._reduces_in_fp32(micro_batches)
            ):
                stack.enter_context(self.ddp.no_sync())
            elif self.ddp is None and micro_batches > 1 and not queues_work(self.model.device):
                # Each gradient as soon as it is complete, so that few are in memory twice.
                for weight, low_precision in self.low_precision_weights.items():
                    hook = partial(_gradient_to_fp32, weight)
                    stack.callback(low_precision.register_post_accumulate_grad_hook(hook).remove)
            yield
        if micro_batches > 1:
            self.gradients_to_fp32()

    def _reduces_in_fp32(self, micro_batches: int) -> bool:
        """Return whether gradients are reduced in fp32 after the step's last micro-batch."""
        has_copy = self.compute_model is not self.model
        return self.ddp is not None and has_copy and micro_batches > 1

    @torch.no_grad()
    def gradients_to_fp32(self) -> None:
        """Add the low-precision gradients to the fp32 ones, and clear them."""
        if not queues_work(self.model.device):
            for weight, low_precision in self.low_precision_weights.items():
                _gradient_to_fp32(weight, low_precision)
            return
        # On a GPU all at once, in few launches.
        pairs = [(w, low) for w, low in self.low_precision_weights.items() if low.grad is not None]
        if not pairs:
            return
        gradients = [torch.empty_like(weight) for weight, _ in pairs]
        torch._foreach_copy_(gradients, [low.grad for _, low in pairs if low.grad is not None])
        sums = [weight.grad for weight, _ in pairs if weight.grad is not None]
        if sums:  # of earlier micro-batches
            torch._foreach_add_(gradients, sums)
        for (weight, low), gradient in zip(pairs, gradients, strict=True):
            weight.grad, low.grad = gradient, None

    def all_reduce_gradients(self, micro_batches: int) -> None:
        """Average a step's gradients over processes, unless DDP did so."""
        if not self._reduces_in_fp32(micro_batches):
            return
        gradients = self.gradients()
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()
        torch._foreach_div_(gradients, dist.get_world_size())

    def gradients(self) -> list[Tensor]:
        """Return a step's gradients: all in fp32, or all in low precision after one micro-batch.

        Under FSDP they are this rank's shards.
        """
        every = (weight.grad for model in self.models for weight in model.parameters())
        return [gradient for gradient in every if gradient is not None]

    def can_skip_on_device(self, optimizer: Optimizer) -> bool:
        """Return whether `optimizer_step_on_device` supports the optimizer and this device."""
        gradients = self.gradients()
        return (
            bool(gradients)
            and queues_work(gradients[0].device)
            and can_skip_on_device(optimizer, gradients)
        )

    def optimizer_step_on_device(
        self, optimizer: Optimizer, clip_divisor: Tensor, skip: Tensor
    ) -> None:
        """Apply the optimizer step unless `skip` () is 1; the host waits for neither tensor."""
        with record_function("Optimizer.step"):  # the name that torch gives to its own part
            self.gradients_to_fp32()
            take_step_on_device(optimizer, clip_divisor, skip)
            self.update_low_precision()

    def optimizer_step(self, optimizer: Optimizer, clip_divisor: float) -> None:
        """Apply the optimizer step, then copy the weights to the low-precision model.

        Gradients are divided by `clip_divisor` first.
        """
        low_precision = self.low_precision_weights
        weights = [weight for weight, copy in low_precision.items() if copy.grad is not None]
        with record_function("Optimizer.step"):  # the name that torch gives to its own part
            if weights and can_step_in_slices(optimizer, weights):
                take_step_in_slices(optimizer, low_precision, clip_divisor)
            else:
                self.gradients_to_fp32()
                take_step(optimizer, self.gradients(), clip_divisor)
                self.update_low_precision()

    def zero_gradients(self) -> None:
        """Clear the gradients of the model and its low-precision copy."""
        for model in self.models:
            model.zero_grad()

    def reshard(self) -> None:
        """Free the weights that a forward pass gathered; each process keeps its shards only."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def full_state_dict(self) -> dict[str, Any] | None:
        """Gather all weights on rank 0; None if they are not sharded."""
        if self.strategy is not Strategy.fsdp:
            return None
        self.reshard()
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=is_adapted(self.model)
        )
        weights = get_model_state_dict(self.model, options=options)
        names = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        tied = names - {name for name, _ in self.model.named_parameters()}
        return {name: weight for name, weight in weights.items() if name not in tied}

    def read_weights(self, folder: Path) -> None:
        """Load the weights of a Hugging Face folder that `save_model` wrote."""
        if self.strategy is Strategy.fsdp:
            self.reshard()
            own = {name: weight.detach() for name, weight in self.model.named_parameters()}
            read_tensors(folder, adapter_tensors(self.model) if is_adapted(self.model) else own)
        else:
            load_weights(self.model, folder)
            self.update_low_precision()


@torch.no_grad()
def _gradient_to_fp32(weight: Tensor, low_precision: Tensor) -> None:
    """Add the gradient of a low-precision weight, if it has one, to that of the fp32 weight."""
    if low_precision.grad is None:
        return
    if weight.grad is None:
        weight.grad = low_precision.grad.float()
    else:
        weight.grad += low_precision.grad
    low_precision.grad = None
