"""The training of a run: its components with the optimizer, and how many steps it takes."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.optim import Optimizer

from lmft.config.schema import RunConfig
from lmft.hardware.mfu import FlopsEstimate, estimate_flops
from lmft.objective import Batch
from lmft.optimizer import build_optimizer
from lmft.trainer.components import Components
from lmft.trainer.step_graphs import StepGraphs, record_steps


@dataclass(frozen=True)
class Training:
    """What takes the optimizer steps of a run."""

    config: RunConfig
    components: Components
    optimizer: Optimizer
    flops: FlopsEstimate  # of a step, and the device's peak throughput
    graphs: StepGraphs | None = None  # of its steps, where they can be recorded

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        trainer = self.config.trainer
        return trainer.steps(self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps that see each block once."""
        return self.components.batches["train"].steps_per_epoch(self.config.trainer.batch_size)

    def batches(self, first: int) -> Iterator[list[Batch]]:
        """Yield the batches of step `first` (1 is the first) and all later ones."""
        trainer, seed = self.config.trainer, self.config.seed
        return self.components.batches["train"].training(
            trainer.batch_size, seed, trainer.shuffle, start=first - 1
        )


def start_training(config: RunConfig, components: Components) -> Training:
    """Build the optimizer of the components' model, and measure the device's peak throughput.

    Raises:
        UserError: the optimizer rejects a value.
    """
    network, hardware = components.network, components.hardware
    optimizer = build_optimizer(config.optimizer, network.model)
    flops = estimate_flops(network.model, hardware, config.objective.is_causal)
    graphs = record_steps(network, optimizer, hardware, config.trainer.max_grad_norm)
    return Training(config, components, optimizer, flops, graphs)
