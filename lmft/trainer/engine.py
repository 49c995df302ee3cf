"""What all ranks of a process group do together: train, evaluate, write and read a model.

When rank 0 calls a public method of `Engine`, the other ranks call it too, with the same positional
arguments. Keyword arguments are for rank 0 only.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from lmft.config.schema import RunConfig, Strategy
from lmft.evaluation.generation import Sample, draw_samples
from lmft.evaluation.scoring import Scores
from lmft.hardware.mfu import estimate_flops
from lmft.model.state_dict import write_state
from lmft.model.weights import save_model
from lmft.optimizer import build_optimizer
from lmft.signals import defer_signals
from lmft.trainer.checkpoint import load_checkpoint
from lmft.trainer.components import Components
from lmft.trainer.evaluate import score
from lmft.trainer.step import Step, train

P = ParamSpec("P")
T = TypeVar("T")


def on_all_ranks(
    method: Callable[Concatenate["Engine", P], T],
) -> Callable[Concatenate["Engine", P], T]:
    """Let the other ranks call the method too."""

    @wraps(method)
    def call(engine: "Engine", *arguments: P.args, **local: P.kwargs) -> T:
        # All ranks must complete a call that one has begun, so signals wait until then.
        with defer_signals() if engine.process_group.size > 1 else nullcontext():
            engine.process_group.tell(method.__name__, arguments=arguments)
            return method(engine, *arguments, **local)

    return call  # type: ignore[return-value]


class Engine:
    """Trains, evaluates, writes and reads the model of a run."""

    def __init__(self, config: RunConfig, components: Components):
        """Build the optimizer.

        Raises:
            UserError: the optimizer rejects a value.
        """
        self.config = config
        self.components = components
        self.process_group = components.hardware.process_group
        self.network = components.network
        self.optimizer = build_optimizer(config.optimizer, self.network.model)
        self._steps: Iterator[Step] = iter(())

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        trainer = self.config.trainer
        return trainer.steps(self.components.batches["train"].steps_per_epoch(trainer.batch_size))

    @on_all_ranks
    def start(self, checkpoint: str | None, done: int, loss_scale: float | None) -> None:
        """Prepare the steps after the first `done`, and load the `checkpoint` of those, if any."""
        if checkpoint is not None:
            self.network.reshard()
            load_checkpoint(Path(checkpoint), self.network.model, self.optimizer)
            self.network.update_low_precision()
        trainer, seed = self.config.trainer, self.config.seed
        batches = self.components.batches["train"]
        self._steps = train(
            self.network,
            batches.training(trainer.batch_size, seed, trainer.shuffle, start=done),
            self.optimizer,
            self.components.hardware,
            trainer,
            range(done + 1, self.steps + 1),
            seed,
            estimate_flops(
                self.network.model,
                self.components.hardware,
                causal=bool(batches.objective.target_shift),
            ),
            loss_scale,
        )

    @on_all_ranks
    def step(self) -> Step:
        """Take the next optimizer step."""
        return next(self._steps)

    @on_all_ranks
    def score(self, split: str, advance: Callable[[int], None] = lambda windows: None) -> Scores:
        """Score a split; `advance` is called with the number of newly scored windows."""
        return score(split, self.config, self.components, advance=advance)

    @on_all_ranks
    def draw_samples(self) -> list[Sample]:
        """Draw samples from a few validation texts."""
        return draw_samples(self.network.compute_model, self.components.batches["validation"])

    @on_all_ranks
    def write_checkpoint(self, folder: str) -> dict[str, Any]:
        """Write weights and optimizer state; return the state that is not a tensor."""
        self.network.reshard()
        if self.process_group.rank > 0 and self.network.strategy is not Strategy.fsdp:
            return {}  # rank 0 writes all of it
        return write_state(Path(folder), self.network.model, self.optimizer)

    @on_all_ranks
    def write_weights(self, folder: str) -> None:
        """Write a Hugging Face folder."""
        weights = self.network.full_state_dict()
        if self.process_group.rank == 0:
            save_model(self.network.model, self.components.tokenizer, Path(folder), weights)

    @on_all_ranks
    def read_weights(self, folder: str) -> None:
        """Read the weights that `write_weights` wrote."""
        self.network.read_weights(Path(folder))
