"""What all processes of a team do alike, on a model that they share.

Each public call of `Engine` that the leader makes is made by the others too, with the same
arguments; what is given by keyword is the leader's alone.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from lmft.config.schema import RunConfig, Strategy
from lmft.evaluation.generation import Sample, draw_samples
from lmft.evaluation.scoring import Scores
from lmft.hardware.mfu import find_limit
from lmft.model.state_dict import write_state
from lmft.model.weights import save_model
from lmft.optimizer import build_optimizer
from lmft.signals import finish_first
from lmft.trainer.checkpoint import load_checkpoint
from lmft.trainer.components import Components
from lmft.trainer.evaluate import score
from lmft.trainer.step import Step, train

P = ParamSpec("P")

T = TypeVar("T")


def together(
    method: Callable[Concatenate["Engine", P], T],
) -> Callable[Concatenate["Engine", P], T]:
    """Let the others make the call as well."""

    @wraps(method)
    def call(engine: "Engine", *arguments: P.args, **local: P.kwargs) -> T:
        # Between processes, what is begun must be finished by all, whatever signal comes.
        with finish_first() if engine.process_group.size > 1 else nullcontext():
            engine.process_group.tell(method.__name__, arguments=arguments)
            return method(engine, *arguments, **local)

    return call  # type: ignore[return-value]


class Engine:
    """A model at work: trained, scored, written and read."""

    def __init__(self, config: RunConfig, components: Components):
        """Nothing is trained yet.

        Raises:
            UserError: the optimizer refuses a value.
        """
        self.config = config
        self.components = components
        self.process_group = components.hardware.process_group
        self.network = components.network
        self.optimizer = build_optimizer(config.optimizer, self.network.model)
        self._steps: Iterator[Step] = iter(())

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        trainer = self.config.trainer
        return trainer.steps(self.components.batches["train"].steps_per_epoch(trainer.batch_size))

    @together
    def start(self, checkpoint: str | None, done: int, loss_scale: float | None) -> None:
        """Make ready for the steps after the first `done`, which `checkpoint` stands for."""
        if checkpoint is not None:
            self.network.reshard()
            load_checkpoint(Path(checkpoint), self.network.model, self.optimizer)
            self.network.refresh()
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
            find_limit(
                self.network.model,
                self.components.hardware,
                causal=bool(batches.objective.target_shift),
            ),
            loss_scale,
        )

    @together
    def step(self) -> Step:
        """The next optimizer step."""
        return next(self._steps)

    @together
    def score(self, split: str, advance: Callable[[int], None] = lambda windows: None) -> Scores:
        """The nats of every target of a split; `advance` hears of windows done."""
        return score(split, self.config, self.components, advance=advance)

    @together
    def draw_samples(self) -> list[Sample]:
        """What the model makes of a few validation texts."""
        return draw_samples(self.network.compute, self.components.batches["validation"])

    @together
    def write_checkpoint(self, folder: str) -> dict[str, Any]:
        """All tensors that going on takes; returns what is no tensor."""
        self.network.reshard()
        if self.process_group.rank > 0 and self.network.strategy is not Strategy.fsdp:
            return {}  # the leader has all of it
        return write_state(Path(folder), self.network.model, self.optimizer)

    @together
    def write_weights(self, folder: str) -> None:
        """An ordinary Hugging Face folder."""
        weights = self.network.whole_weights()
        if self.process_group.rank == 0:
            save_model(self.network.model, self.components.tokenizer, Path(folder), weights)

    @together
    def read_weights(self, folder: str) -> None:
        """What `write_weights` wrote."""
        self.network.read_weights(Path(folder))
