"""The model as it computes, and the fp32 weights behind it.

Mixed precision after Micikevicius et al. 2018, with the narrow weights kept instead of cast anew at
every use: where a run computes in bf16 or fp16, a twin of the model holds its weights rounded.
Under FSDP torch does so itself.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
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

from lmft.config.schema import Strategy
from lmft.errors import UserError
from lmft.hardware.device import Hardware
from lmft.hardware.fsdp import shard
from lmft.model.kernels.recompute import Recompute
from lmft.model.kernels.replace import replace_layers
from lmft.model.lm_head import Head, find_head
from lmft.model.state_dict import read_tensors
from lmft.model.weights import load_weights
from lmft.optimizer import moves_in_slices, take_step, take_step_in_slices


@dataclass(frozen=True)
class Network:
    """A model in training."""

    model: PreTrainedModel  # fp32: what the optimizer moves, and what is kept
    compute: PreTrainedModel  # what reads tokens: the model itself in fp32, else its twin
    head: Head | None  # of `compute`, where it is understood
    strategy: Strategy = Strategy.none
    ddp: DistributedDataParallel | None = None  # around `compute`, where there is a team
    recompute_hooks: AbstractContextManager[None] = (
        nullcontext()
    )  # for forward passes: keeps less of them

    @property
    def models(self) -> list[PreTrainedModel]:
        """The model, and its twin where it has one."""
        return [self.model] if self.compute is self.model else [self.model, self.compute]

    @property
    def trained(self) -> Any:
        """What is called in training."""
        return self.ddp or self.compute

    @property
    def low_precision(self) -> dict[Tensor, Tensor]:
        """For each of the model's weights the twin's; none where the model itself computes."""
        if self.compute is self.model:
            return {}
        return dict(zip(self.model.parameters(), self.compute.parameters(), strict=True))

    @torch.no_grad()
    def refresh(self) -> None:
        """Let the twin compute with the model's weights of now."""
        if low_precision := self.low_precision:
            torch._foreach_copy_(list(low_precision.values()), list(low_precision))

    @contextmanager
    def accumulate(self, number: int, passes: int) -> Iterator[None]:
        """For pass `number` of a step's `passes`: gradients add up in fp32, over all of them.

        Those of a single pass stay as narrow as they came. DDP adds up over processes in the last
        pass; a twin's gradients of several passes when all have come.
        """
        with ExitStack() as stack:
            if self.ddp is not None and (number < passes or self._waits(passes)):
                stack.enter_context(self.ddp.no_sync())
            elif self.ddp is None and passes > 1:
                for weight, narrow in self.low_precision.items():  # each as soon as it is there
                    hook = partial(gradients_to_fp32, weight)
                    stack.callback(narrow.register_post_accumulate_grad_hook(hook).remove)
            yield
        if passes > 1:
            self.gradients_to_fp32()

    def _waits(self, passes: int) -> bool:
        """Whether gradients are added up over processes in fp32, once all passes are done."""
        return self.ddp is not None and self.compute is not self.model and passes > 1

    def gradients_to_fp32(self) -> None:
        """Add the twin's gradients to the model's, in fp32, as far as that was not done at once."""
        for weight, narrow in self.low_precision.items():
            gradients_to_fp32(weight, narrow)

    def all_reduce_gradients(self, passes: int) -> None:
        """After a step's passes: average the gradients over processes, where DDP did not."""
        if not self._waits(passes):
            return
        gradients = self.gradients()
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()
        torch._foreach_div_(gradients, dist.get_world_size())

    def gradients(self) -> list[Tensor]:
        """After a step's passes: all in fp32, or all as narrow as the twin's single pass left them.

        Where they are shared out, this process's share.
        """
        every = (weight.grad for model in self.models for weight in model.parameters())
        return [gradient for gradient in every if gradient is not None]

    def apply_gradients(self, optimizer: Optimizer, clip_divisor: float) -> None:
        """Let the weights move, and the twin's with them, by gradients divided by `shrink`."""
        low_precision = self.low_precision
        moved = [weight for weight, narrow in low_precision.items() if narrow.grad is not None]
        with record_function("Optimizer.step"):  # as torch calls the part that is its own
            if moved and moves_in_slices(optimizer, moved):
                take_step_in_slices(optimizer, low_precision, clip_divisor)
            else:
                self.gradients_to_fp32()
                take_step(optimizer, self.gradients(), clip_divisor)
                self.refresh()

    def zero_gradients(self) -> None:
        """Of the model and its twin."""
        for model in self.models:
            model.zero_grad()

    def reshard(self) -> None:
        """Let each process hold its share of the weights alone; a forward pass keeps some whole."""
        for part in self.model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def whole_weights(self) -> dict[str, Any] | None:
        """All weights, in the first process; None where they are not shared out."""
        if self.strategy is not Strategy.fsdp:
            return None
        self.reshard()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options)
        every = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        twice = every - {name for name, _ in self.model.named_parameters()}  # tied
        return {name: weight for name, weight in weights.items() if name not in twice}

    def read_weights(self, folder: Path) -> None:
        """Those of a Hugging Face folder that `save_model` wrote."""
        if self.strategy is Strategy.fsdp:
            self.reshard()
            read_tensors(folder, {n: w.detach() for n, w in self.model.named_parameters()})
        else:
            load_weights(self.model, folder)
            self.refresh()


def build_network(model: PreTrainedModel, hardware: Hardware) -> Network:
    """Bring the model (fp32, on the CPU) to the device, and into the form that computes there.

    Raises:
        UserError: the model does not know what the hardware asks for.
    """
    if hardware.strategy is not Strategy.fsdp:  # which brings its layers there one by one
        model.to(hardware.device)  # type: ignore[arg-type]
    head, compute = find_head(model), model
    if hardware.dtype is not torch.float32 and hardware.strategy is not Strategy.fsdp:
        compute = copy.deepcopy(model)
        for weight in compute.parameters():  # buffers, as RoPE's frequencies, stay exact
            weight.data = weight.data.to(hardware.dtype)
        if head is not None:
            head = replace(head, linear=compute.get_output_embeddings())
    if hardware.checkpoint_activations:
        checkpoint_activations(compute)
    if hardware.compile:
        (compute if head is None else compute.base_model).compile()
    else:
        replace_layers(compute)
    # Compiled code and layers that are made again keep what they choose themselves; under FSDP
    # weights have gone again by then.
    others = hardware.compile or hardware.checkpoint_activations
    recompute_hooks = (
        nullcontext() if others or hardware.strategy is Strategy.fsdp else Recompute(compute)
    )
    ddp = None
    if hardware.strategy is Strategy.ddp:
        ddp = DistributedDataParallel(compute, forward_sync_buffers=False)
    elif hardware.strategy is Strategy.fsdp:
        shard(model, hardware)
    return Network(model, compute, head, hardware.strategy, ddp, recompute_hooks)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only what enters a layer; what it makes inside is made again in the backward pass.

    Raises:
        UserError: transformers can't do so with this model.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"transformers can't make the activations of {type(model).__name__} again; leave out "
            "hardware.checkpoint_activations, and lower hardware.micro_batch_size instead."
        )
    model.activation_checkpointing_enable()


@torch.no_grad()
def gradients_to_fp32(weight: Tensor, narrow: Tensor) -> None:
    """Add the gradient of a twin's weight, where there is one, to the model's, in fp32."""
    if narrow.grad is None:
        return
    if weight.grad is None:
        weight.grad = narrow.grad.float()
    else:
        weight.grad += narrow.grad
    narrow.grad = None
