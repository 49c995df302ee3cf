"""Take training steps on a device that computes nothing, and print what the host asks of it.

Run as a program, since torch can register such a device only once in a process: its arguments are
cases, its output is JSON with the operations of each case's second step and what it waits for.
Tensors of the host are real; those of the device have shapes only.
"""

import json
import sys
from collections import Counter
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from lmft.config.schema import RunConfig
from lmft.config.training_knobs import Precision
from lmft.hardware.device import Hardware
from lmft.model.kernels.attention import replace_attention
from lmft.model.kernels.replace import replace_layers
from lmft.model.lm_head import Head
from lmft.model.network import Network
from lmft.objective import Batch
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.step import update_weights
from lmft.trainer.training import Training
from tests.helpers.architectures import build_tiny
from tests.helpers.training import BLOCKS, CONFIG, FLOPS

DEVICE = "fake_gpu"
CASES = {  # architecture, micro-batch size of 8 blocks
    "gpt2": ("gpt2", 8),
    "gpt2 accumulated": ("gpt2", 2),
    "llama": ("llama", 8),
    "bert": ("bert", 8),
}
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal")
# Of these, torch launches no kernel.
VIEWS = {
    "view", "transpose", "t", "expand", "detach", "split", "slice", "unsqueeze", "squeeze", "alias",
    "_unsafe_view", "select", "permute", "as_strided", "empty", "empty_like", "new_empty", "device",
    "unbind", "_reshape_alias", "lift_fresh", "new_empty_strided", "empty_strided",
}  # fmt: skip


class Recorder(TorchDispatchMode):
    """Counts operations of the device; operations of the host alone are really computed."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = torch.device(kwargs.get("device") or "cpu")
        if device.type == "cpu" and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with _disable_current_modes():
                return operation(*args, **kwargs)
        name = str(operation)
        short = name.split(".")[1]
        if short not in VIEWS:
            self.operations[short] += 1
        if name.startswith(WAITS):
            self.waits[name] += 1
        if short == "_to_copy" and not isinstance(args[0], FakeTensor):  # from host to device
            if not kwargs.get("non_blocking"):
                self.waits["a copy from pageable memory"] += 1
            return torch.empty(
                args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=device
            )
        if short == "_to_copy" and device.type == "cpu" and "device" in kwargs:
            self.waits["a copy to the host"] += 1
        return operation(*args, **kwargs)


def move(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Replace weights and buffers by fake ones; tied weights stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in made:
                fake = torch.empty(weight.shape, dtype=dtype or weight.dtype, device=DEVICE)
                made[id(weight)] = nn.Parameter(fake)
            if weight is not None:
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
    return model


def record_step(kind: str, micro_batch_size: int) -> Recorder:
    """Return what the second step does in bf16; the first one creates the optimizer's state."""
    model, copy = build_tiny(kind), build_tiny(kind)
    ids = torch.arange(8 * 16).view(8, 16) % 90
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(model)
        compute_model = move(copy, torch.bfloat16)
        replace_attention(compute_model)
        replace_layers(compute_model)
        network = Network(
            model, compute_model, Head(compute_model.get_output_embeddings(), 1, None)
        )
        hardware = Hardware(torch.device(DEVICE), Precision.bf16, micro_batch_size, False, False)
        optimizer = build_optimizer(partial(torch.optim.AdamW, lr=1e-3, fused=True), model)
        config = RunConfig(BLOCKS, *[None] * 4, CONFIG, *[None] * 4, 0, *[None] * 4)
        training = Training(config, Components(hardware, None, {}, network), optimizer, FLOPS)
        for number in (1, 2):
            recorder = Recorder()
            with recorder:
                update_weights(training, [Batch(ids, ids)], number, None)
    return recorder


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend(DEVICE)
    recorders = {case: record_step(*CASES[case]) for case in sys.argv[1:]}
    print(json.dumps({c: [dict(r.operations), dict(r.waits)] for c, r in recorders.items()}))
