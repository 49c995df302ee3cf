"""The CUDA kernel of the loss, run by Triton's interpreter on a CPU, and compiled for GPUs."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from lmft.config.training_knobs import Precision
from lmft.hardware.device import Hardware
from lmft.model import chunks, loss
from lmft.model.chunks import Sizes
from lmft.model.kernels.cross_entropy import cross_entropy_
from lmft.model.mixed_precision import build_network
from lmft.objective import IGNORED, Batch
from tests.helpers.architectures import build_tiny
from tests.helpers.losses import measure

pytest.importorskip("triton", reason="Triton, with which the kernel is written, is not installed")
if torch.cuda.is_available():
    pytest.skip("tests/cuda runs the kernel itself", allow_module_level=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale, softcap", [(1.0, None), (0.25, 30.0)])
@pytest.mark.parametrize("vocabulary", [50, 4096, 9000])  # part of a part, whole parts, both
def test_the_kernel_gives_nats_and_gradient(vocabulary, scale, softcap, dtype):
    torch.manual_seed(0)
    rows = (20 * torch.randn(4, vocabulary + 14)).to(dtype)
    rows[1, 3] = -torch.inf  # as some models give tokens that can't follow
    logits, targets = rows[:, :vocabulary], torch.tensor([7, 0, IGNORED, vocabulary - 1])
    reference = logits.detach().float().requires_grad_()
    capped = reference * scale
    if softcap is not None:
        capped = softcap * torch.tanh(capped / softcap)
    expected = F.cross_entropy(capped, targets, ignore_index=IGNORED, reduction="none")
    expected.sum().backward()
    added = rows[:, vocabulary:].clone()
    only_nats = cross_entropy_(logits, targets, scale, softcap, gradient=False)
    nats = cross_entropy_(logits, targets, scale, softcap, gradient=True)
    assert torch.equal(nats, only_nats) and nats[2] == 0
    assert torch.allclose(nats, expected, rtol=1e-5, atol=1e-5)
    close = 1e-5 if dtype is torch.float32 else 4e-3
    assert torch.allclose(logits.float(), reference.grad, rtol=close, atol=close)
    assert torch.equal(rows[:, vocabulary:], added)


@pytest.mark.parametrize("capability, dtype", [(75, "fp16"), (90, "bf16")])
def test_each_gpu_reads_and_writes_eight_logits_at_once(capability, dtype, tmp_path):
    ptx = subprocess.run(
        [sys.executable, "-m", "tests.helpers.kernel_ptx", str(capability), dtype, "50257"],
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f".target sm_{capability}" in ptx
    parts = 2  # 2048 columns for 4 warps of 32 threads are 16 for each of them
    assert ptx.count("ld.global.v4.b32") == 2 * parts  # for the nats, then for the gradient
    assert ptx.count("st.global.v4.b32") == parts


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, in the interpreter
def test_a_row_that_is_not_finite_has_no_finite_nats():
    logits = torch.randn(3, 20)
    logits[0, 5], logits[1, 6] = torch.nan, torch.inf
    nats = cross_entropy_(logits, torch.tensor([1, 2, 3]), 1.0, None, gradient=True)
    assert nats.isfinite().tolist() == [False, False, True]
    assert not logits[0].isfinite().any() and logits[2].isfinite().all()


@pytest.mark.parametrize(
    "share", [0.95, 0.4]
)  # of positions with targets: all rows, or a padded few
@pytest.mark.parametrize("kind", ["gpt2", "bert", "gemma2"])
def test_the_loss_by_the_kernel_is_that_of_whole_logits(kind, share, monkeypatch):
    network = build_network(
        build_tiny(kind), Hardware(torch.device("cpu"), Precision.fp32, 4, False, False)
    )
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (3, 16))
    targets = torch.randint(3, 97, (3, 16)).masked_fill(torch.rand(3, 16) > share, IGNORED)
    batch = Batch(ids, targets)
    mean, nats, each, gradients = measure(network, None, batch)
    row = 4 * 128
    monkeypatch.setattr(chunks, "CPU_SIZES", Sizes(20 * row, 9 * row, 2**30, 2**30, alignment=64))
    monkeypatch.setattr(loss, "has_kernel", lambda device: True)
    by_kernel = measure(network, network.head, batch, multiple=8)
    assert by_kernel[1].dtype is torch.float64
    assert torch.allclose(by_kernel[0].float(), mean, rtol=1e-5)
    assert torch.allclose(by_kernel[1].float(), nats, rtol=1e-5)
    assert torch.allclose(by_kernel[2], each, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(by_kernel[3][name], gradient, rtol=1e-4, atol=1e-6), name
