"""The loss of a batch, with its gradients."""

from lmft.model.loss import mean_nats, target_nats, to_device


def measure(network, head, batch, multiple=1):
    network.zero_gradients()
    on_device = to_device(batch, head, network.model.device, multiple)
    mean, nats = mean_nats(network.compute_model, head, on_device, batch.num_targets)
    mean.backward()
    network.gradients_to_fp32()
    named = network.model.named_parameters()  # in fp32, whatever computed them
    gradients = {name: w.grad.clone() for name, w in named if w.grad is not None}
    return mean.detach(), nats, target_nats(network.compute_model, head, batch), gradients
