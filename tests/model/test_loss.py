"""The loss: whatever the head, chunk by chunk gives what whole logits give."""

import pytest
import torch

from lmft.config.schema import Precision
from lmft.hardware.device import Hardware
from lmft.model import loss
from lmft.model.loss import Sizes, mean_nats, target_nats
from lmft.model.mixed_precision import build_network
from lmft.objective import IGNORED, Batch
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny


def measure(network, head, batch):
    network.zero_gradients()
    mean, nats = mean_nats(network.compute_model, head, batch, batch.num_targets)
    mean.backward()
    network.gradients_to_fp32()
    named = network.model.named_parameters()  # in fp32, whatever computed them
    gradients = {name: w.grad.clone() for name, w in named if w.grad is not None}
    return mean.detach(), nats, target_nats(network.compute_model, head, batch), gradients


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_chunks_give_the_loss_and_the_gradients_of_whole_logits(kind, precision, monkeypatch):
    row = 97 * (4 if precision is Precision.fp32 else 2)  # bytes of its logits
    # Chunks of seven rows, three of them in fp32 at once; as on a GPU, rows are padded.
    sizes = Sizes(7 * row, 5 * row, fp32_logits=3 * 97, slice=40, alignment=64)
    monkeypatch.setattr(loss, "CPU_SIZES", sizes)
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
