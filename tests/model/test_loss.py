"""The loss: whatever the head, chunk by chunk gives what whole logits give."""

from dataclasses import replace

import pytest
import torch

from lmft.config.training_knobs import Precision
from lmft.hardware.device import Hardware
from lmft.model import chunks, loss
from lmft.model.chunks import Sizes, chunk_bytes
from lmft.model.lm_head import find_head
from lmft.model.loss import LinearCrossEntropy
from lmft.model.mixed_precision import build_network
from lmft.objective import IGNORED, Batch
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny
from tests.helpers.losses import measure


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_chunks_give_the_loss_and_the_gradients_of_whole_logits(kind, precision, monkeypatch):
    row = 97 * (4 if precision is Precision.fp32 else 2)  # bytes of its logits
    # Chunks of seven rows, three of them in fp32 at once; as on a GPU, rows are padded.
    sizes = Sizes(7 * row, 5 * row, fp32_logits=3 * 97, slice=40, alignment=64)
    monkeypatch.setattr(chunks, "CPU_SIZES", sizes)
    hardware = Hardware(torch.device("cpu"), precision, 4, False, False)
    network = build_network(build_tiny(kind), hardware)
    assert network.head is not None
    ids = torch.randint(3, 97, (3, 16))
    targets = torch.randint(3, 97, (3, 16)).masked_fill(torch.rand(3, 16) < 0.3, IGNORED)
    batch = Batch(ids, targets)
    mean, nats, each, gradients = measure(network, network.head, batch)
    plain_mean, plain_nats, plain_each, plain_gradients = measure(network, None, batch)
    close = 1e-5 if precision is Precision.fp32 else 1e-2
    assert torch.allclose(mean, plain_mean, rtol=close)
    assert torch.allclose(nats, plain_nats, rtol=close)
    assert torch.allclose(each, plain_each, rtol=close, atol=close)
    assert gradients.keys() == plain_gradients.keys()
    whole = torch.cat([g.flatten() for g in plain_gradients.values()])
    ours = torch.cat([gradients[name].flatten() for name in plain_gradients])
    assert float((whole - ours).norm() / whole.norm()) < close


@pytest.mark.parametrize("rows_of_a_chunk", [3, 99])
def test_the_gradient_of_the_heads_weight_is_not_copied(rows_of_a_chunk, monkeypatch):
    """In fp32: with a vocabulary of 262,144 tokens a copy takes 1 GB for 1,024 hidden units."""
    sizes = replace(chunks.CPU_SIZES, chunk_bytes=4 * 97 * rows_of_a_chunk)
    monkeypatch.setattr(chunks, "CPU_SIZES", sizes)
    model = build_tiny("llama")
    head = find_head(model)
    hidden = torch.randn(12, 32, requires_grad=True)
    linear, targets = head.linear, torch.randint(97, (12,))
    mean, _ = LinearCrossEntropy.apply(hidden, linear.weight, None, targets, head, 12)
    address = mean.grad_fn.gradients[1].data_ptr()
    mean.backward()
    assert linear.weight.grad.data_ptr() == address


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 1023])
def test_rows_added_to_a_product_change_no_bit(rows, monkeypatch):
    head, weight = find_head(build_tiny("llama")), torch.randn(2003, 96).bfloat16() / 8
    hidden, targets = torch.randn(rows, 96).bfloat16(), torch.randint(2003, (rows,))

    def compute():
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        mean, nats = LinearCrossEntropy.apply(*leaves, None, targets, head, rows)
        mean.backward()
        return [mean, nats, *(leaf.grad for leaf in leaves)]

    assert len(loss._filled_up(hidden)) == (1 if rows == 1 else 8 * -(-rows // 8))
    filled_up = compute()
    monkeypatch.setattr(loss, "_filled_up", lambda rows: rows)
    assert all(torch.equal(ours, plain) for ours, plain in zip(filled_up, compute(), strict=True))


def test_large_vocabularies_have_larger_chunks():
    sizes = [chunk_bytes(torch.empty(tokens, 1, device="meta")) for tokens in (2**17, 2**17 + 1)]
    assert sizes == [chunks.GPU_SIZES.chunk_bytes, 2**30]
    assert chunk_bytes(torch.empty(2**17, 1)) == 2**27  # on a CPU, as ever
