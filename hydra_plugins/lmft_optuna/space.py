"""The search space, read from words of Hydra's command line, and its values as such words."""

import math
import re
from decimal import Decimal
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)

from lmft.errors import UserError

Space = dict[str, Any]  # an Optuna distribution of each knob
Value = float | int | str  # a choice is kept as the text that Hydra reads


def read_space(words: list[str], loader: ConfigLoader | None = None) -> tuple[Space, list[str]]:
    """What is to be searched, and the words that all jobs share.

    Args:
        words: overrides; of those of one knob the last counts.
        loader: knows the choices of each group, for glob(*).

    Raises:
        UserError: nothing is to be searched, or a sweep can't be.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    last = {override.get_key_element().lstrip("+~"): override for override in parsed}
    swept = [override for override in last.values() if override.is_sweep_override()]
    if not swept:
        raise UserError(
            "hydra/sweeper=optuna has nothing to search; add knobs such as "
            "'optimizer.lr=tag(log, interval(1e-5, 1e-3))'."
        )
    space = {override.get_key_element(): as_distribution(override) for override in swept}
    return space, [str(override.input_line) for override in last.values() if override not in swept]


def as_distribution(override: Override) -> Any:
    """Where the values of one knob are drawn from.

    Choices are sorted: in another order they are the same to a study.

    Raises:
        UserError: an empty range, bounds that a logarithm does not allow, an unknown tag.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    numeric = isinstance(sweep, IntervalSweep | RangeSweep)
    try:
        unknown: set[str] = getattr(sweep, "tags", set()) - ({"log"} if numeric else set())
        if unknown:
            raise ValueError(f"the tag {min(unknown)!r} means nothing there")
        if not numeric:
            return CategoricalDistribution(sorted({*map(str, override.sweep_iterator(write))}))
        if isinstance(sweep, RangeSweep):
            low, high, step = bounds(sweep)
        else:
            low, high, step = sweep.start, sweep.end, None
        log = "log" in sweep.tags
        if all(isinstance(bound, int) for bound in (low, high)):
            return IntDistribution(low, high, step=step or 1, log=log)
        return FloatDistribution(low, high, step=step, log=log)
    except ValueError as error:
        raise UserError(f"{override.input_line} can't be searched: {error}") from error


def bounds(sweep: RangeSweep) -> tuple[Any, Any, Any]:
    """The lowest and the highest value of a range, and the step between values.

    Computed as written, in decimals: 0.1 and two steps of 0.1 are 0.3.
    """
    ends = (sweep.start, sweep.stop, sweep.step)
    start, stop, step = (Decimal(str(end)) for end in ends)
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ValueError("the range is empty")
    kind = int if all(isinstance(end, int) for end in ends) else float
    low, high = sorted((start, start + (count - 1) * step))
    return kind(low), kind(high), kind(abs(step))


def write(value: Any) -> str:
    """A choice as Hydra reads it; Hydra's own writer loses the quotes of choice('1')."""
    strip_control = r"(?!(true|false|null|inf|nan)$)[a-z_][a-z0-9_./-]*"
    if isinstance(value, str) and not re.fullmatch(strip_control, value, re.IGNORECASE | re.ASCII):
        return QuotedString(value, Quote.single).with_quotes()
    return str(Transformer.str(value))


def as_words(values: dict[str, Value]) -> list[str]:
    """A point of the space as overrides, which Hydra reads as exactly these values."""
    return [
        f"{knob}={float(value)!r}" if isinstance(value, float) else f"{knob}={value}"
        for knob, value in values.items()
    ]


def corners(space: Space) -> list[dict[str, Value]]:
    """Points in which each choice comes up, to be composed before anything is begun."""
    edges = {knob: getattr(drawn, "choices", ()) or (drawn.low,) for knob, drawn in space.items()}
    count = max(len(edge) for edge in edges.values())
    return [{knob: edge[i % len(edge)] for knob, edge in edges.items()} for i in range(count)]
