"""What every number in a config may be; checked when a config is read.

What two knobs must be to each other is checked where they are used.
"""

from collections.abc import Mapping
from typing import Any

from lmft.config.knob_metadata import HUGE, Range, count
from lmft.config.knobs import flatten
from lmft.config.schema import knobs
from lmft.errors import UserError

RANGES = {  # the schema's, and those of groups that it does not list
    **{name: declared["allowed"] for name, declared in knobs() if declared.get("allowed")},
    "objective.mask_fraction": Range(0, 1, above=True, below=True),
    "optimizer.lr": Range(0, HUGE),
    "optimizer.betas": Range(0, 1, below=True),
    "optimizer.eps": Range(0, 1, (None,)),  # Adafactor has two, the first of them null
    "optimizer.weight_decay": Range(0, HUGE),
    "hydra.launcher.n_jobs": count(1, -1, most=1024),  # -1: one for each core
    "hydra.sweeper.max_batch_size": count(1, None),
    "hydra.sweeper.n_trials": count(1),
    "hydra.sweeper.n_jobs": count(1, most=1024),
    "hydra.sweeper.max_failures": count(0, None),
    "hydra.sweeper.seed": count(0, most=2**31 - 1),
}
HINTS = {
    "hydra.sweeper.n_jobs": ": as many trials at once, in processes by hydra/launcher=joblib",
}
ANY = Range(-HUGE, HUGE)  # of all other numbers, such as those of a model's own config


def check_ranges(values: Mapping[str, Any]) -> None:
    """Refuse a number that is out of its knob's range.

    Args:
        values: a config, or a part of one by full names.

    Raises:
        UserError: there is one.
    """
    for name, value in flatten(values).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if (name in RANGES or _is_number(number)) and number not in RANGES.get(name, ANY):
                raise UserError(range_error(name, number))


def range_error(name: str, value: Any) -> str:
    """Return the sentence that says what the knob `name` may be instead of `value`."""
    shown = "null" if value is None else repr(value)
    return f"{name} must be {RANGES.get(name, ANY)}, not {shown}{HINTS.get(name, '')}."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
