"""Turn Hydra's sweep overrides into Optuna distributions, and drawn values into overrides."""

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
Value = float | int | str  # choices are text in Hydra's syntax


def read_space(overrides: list[str], loader: ConfigLoader | None = None) -> tuple[Space, list[str]]:
    """Return the search space, and the overrides that all jobs have in common.

    Args:
        overrides: of one knob, the last one counts.
        loader: provides the choices of each group, for glob(*).

    Raises:
        UserError: there is nothing to search, or a sweep can't be searched.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
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
    """Return the distribution from which the values of one knob are drawn.

    Choices are sorted, so that their order on the command line does not matter.

    Raises:
        UserError: the range is empty, its bounds don't allow a logarithm, or a tag is unknown.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    numeric = isinstance(sweep, IntervalSweep | RangeSweep)
    try:
        unknown: set[str] = getattr(sweep, "tags", set()) - ({"log"} if numeric else set())
        if unknown:
            raise ValueError(f"the tag {min(unknown)!r} is not known there")
        if not numeric:
            return CategoricalDistribution(
                sorted({*map(str, override.sweep_iterator(quote_choice))})
            )
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
    """Return the lowest and highest value of a range, and the step between values.

    Computed in decimals, as they are written: 0.1 and two steps of 0.1 are 0.3.
    """
    ends = (sweep.start, sweep.stop, sweep.step)
    start, stop, step = (Decimal(str(end)) for end in ends)
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ValueError("the range is empty")
    kind = int if all(isinstance(end, int) for end in ends) else float
    low, high = sorted((start, start + (count - 1) * step))
    return kind(low), kind(high), kind(abs(step))


def quote_choice(value: Any) -> str:
    """Return a choice in Hydra's syntax; Hydra's own writer loses the quotes of choice('1')."""
    unquoted = r"(?!(true|false|null|inf|nan)$)[a-z_][a-z0-9_./-]*"
    if isinstance(value, str) and not re.fullmatch(unquoted, value, re.IGNORECASE | re.ASCII):
        return QuotedString(value, Quote.single).with_quotes()
    return str(Transformer.str(value))


def as_overrides(values: dict[str, Value]) -> list[str]:
    """Return a point of the space as overrides, which Hydra parses to exactly these values."""
    return [
        f"{knob}={float(value)!r}" if isinstance(value, float) else f"{knob}={value}"
        for knob, value in values.items()
    ]


def match_grid(sampler: Any, space: Space) -> Any:
    """Return the settings of a sampler with the values of its grid as the space has them.

    Choices are text there: GridSampler would not find 8 among '8' and '16'.
    """
    grid = sampler.get("search_space") if isinstance(sampler, dict) else None
    if not isinstance(grid, dict):
        return sampler

    def match(knob: str, value: Any) -> Any:
        choices = getattr(space.get(knob), "choices", None)
        return value if choices is None or value in choices else quote_choice(value)

    matched = {
        knob: [match(knob, value) for value in values] if isinstance(values, list) else values
        for knob, values in grid.items()
    }
    return {**sampler, "search_space": matched}


def corner_points(space: Space) -> list[dict[str, Value]]:
    """Return points in which each choice occurs, to check that they compose before a job starts."""
    values = {knob: getattr(drawn, "choices", ()) or (drawn.low,) for knob, drawn in space.items()}
    count = max(map(len, values.values()))
    return [
        {knob: of_knob[i % len(of_knob)] for knob, of_knob in values.items()} for i in range(count)
    ]
