"""The measurements of a row and their targets."""

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound on a figure's value."""

    bound: float
    stretch: float | None = None  # a stricter bound: the stretch goal
    at_most: bool = False
    precision: str | None = None  # set if the target was defined for another precision

    def __str__(self) -> str:
        text = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        text += "" if self.stretch is None else f", *{self.stretch:g}"
        return text if self.precision is None else f"({text} in {self.precision})"

    def judge(self, value: float) -> str:
        """Return whether `value` reaches the target; "" if it is set for another precision."""
        if self.precision is not None:
            return ""
        sign = -1 if self.at_most else 1
        if self.stretch is not None and sign * value >= sign * self.stretch:
            return "yes, *"
        return "yes" if sign * value >= sign * self.bound else "NO"


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once per pair for lmft and, in comparisons, for the reference."""

    name: str
    unit: str
    ours: list[float]
    theirs: list[float] = field(default_factory=list)
    target: Target | None = None

    @property
    def value(self) -> float:
        """The value that the target bounds: the ratio of medians, or lmft's median alone."""
        ours = statistics.median(self.ours)
        return ours / statistics.median(self.theirs) if self.theirs else ours

    @property
    def spread(self) -> tuple[float, float]:
        """The minimum and maximum over single pairs."""
        pairs = self.ours
        if self.theirs:
            pairs = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        return min(pairs), max(pairs)

    @property
    def verdict(self) -> str:
        """Whether the target is reached; empty without a target."""
        return "" if self.target is None else self.target.judge(self.value)

    def as_json(self) -> dict[str, Any]:
        """Return the fields and the values derived from them."""
        medians = {
            side: statistics.median(values)
            for side, values in (("ours", self.ours), ("theirs", self.theirs))
            if values
        }
        return vars(self) | {
            "target": self.target and vars(self.target),
            "medians": medians,
            "value": self.value,
            "spread": self.spread,
            "verdict": self.verdict,
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Figure":
        """Restore a figure from the output of `as_json`."""
        target = found["target"] and Target(**found["target"])
        return cls(found["name"], found["unit"], found["ours"], found["theirs"], target)
