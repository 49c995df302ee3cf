"""What every number in a config may be: one table, looked at when a config is read.

What two knobs must be to each other is checked where they are used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmft.config.knobs import flatten
from lmft.errors import UserError

Other = int | str | None  # what a knob may be beside these numbers: auto, null


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`."""

    low: float
    high: float
    others: tuple[Other, ...] = ()
    whole: bool = False
    above: bool = False  # `low` itself is none of them
    below: bool = False  # nor is `high`

    def __contains__(self, value: Any) -> bool:
        kinds = int if self.whole else (int, float)
        if value in self.others:
            return True
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        over = self.low < value if self.above else self.low <= value
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low, high = f"{self.low:,}", f"{self.high:,}"
        if self.above or self.below:
            ends = f"{'above' if self.above else 'of at least'} {low} and "
            ends += f"{'below' if self.below else 'at most'} {high}"
        else:
            ends = f"from {low} to {high}"
        others = ["null" if other is None else str(other) for other in self.others]
        return ", or ".join([f"a {'whole ' * self.whole}number {ends}", *others])


MANY = 10**9

HUGE = 1e38  # about the largest number of fp32


def _count(least: int, *others: Other, most: int = MANY) -> Range:
    return Range(least, most, others, whole=True)


def _positive(most: float, *others: Other) -> Range:
    return Range(0, most, others, above=True)


RANGES = {
    "seed": _count(0, most=2**63 - 1),
    "dataset.validation_fraction": Range(0, 1, above=True, below=True),
    "dataset.block_size": _count(2),
    "dataset.max_documents": _count(1, None),
    "model.vocab_size": _count(1, most=1_000_000),  # room for as many is made beforehand
    "model.dropout": Range(0, 1, (None,), below=True),
    "objective.mask_fraction": Range(0, 1, above=True, below=True),
    "optimizer.lr": Range(0, HUGE),
    "optimizer.betas": Range(0, 1, below=True),
    "optimizer.eps": Range(0, 1, (None,)),  # Adafactor has two, the first of them null
    "optimizer.weight_decay": Range(0, HUGE),
    "trainer.epochs": _positive(1_000_000),
    "trainer.max_steps": _count(1, None),
    "trainer.batch_size": _count(1),
    "trainer.warmup_steps": _count(0, most=10**24),  # more than are taken: next to no learning
    "trainer.max_grad_norm": _positive(HUGE, None),
    "trainer.evaluate_every": _count(1, None),
    "trainer.patience": _count(1, None),
    "trainer.checkpoint_every": _count(1, None),
    "trainer.checkpoint_minutes": _positive(1_000_000, None),
    "evaluation.context": _count(2, None),
    "evaluation.stride": _count(1, None),
    "evaluation.max_blocks": _count(1, None),
    "evaluation.mask_draws": _count(1, most=1_000_000),
    "hardware.processes": _count(1, None, most=1024),
    "hardware.micro_batch_size": _count(1, "auto"),
    "hydra.launcher.n_jobs": _count(1, -1, most=1024),  # -1: one for each core
    "hydra.sweeper.max_batch_size": _count(1, None),
    "hydra.sweeper.n_trials": _count(1),
    "hydra.sweeper.n_jobs": _count(1, most=1024),
    "hydra.sweeper.max_failures": _count(0, None),
    "hydra.sweeper.seed": _count(0, most=2**31 - 1),
}

ANY = Range(-HUGE, HUGE)  # of all other numbers: those of a model's own config, say


def check_ranges(values: Mapping[str, Any]) -> None:
    """Refuse a number that means nothing where it stands.

    Args:
        values: a config, or a part of one by full names.

    Raises:
        UserError: there is one.
    """
    for knob, value in flatten(values).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            allowed = RANGES.get(knob, ANY)
            if (knob in RANGES or _is_number(number)) and number not in allowed:
                raise UserError(refusal(knob, number))


def refusal(knob: str, value: Any) -> str:
    """The sentence that says so."""
    shown = "null" if value is None else repr(value)
    return f"{knob} must be {RANGES.get(knob, ANY)}, not {shown}."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
