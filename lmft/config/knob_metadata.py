"""What the schema declares of a knob: the range of a number, and what the knob decides."""

from dataclasses import MISSING, dataclass
from enum import Enum
from typing import Any

Other = int | str | None  # what a knob may be beside the numbers of its range: auto, null


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`."""

    low: float
    high: float
    others: tuple[Other, ...] = ()
    whole: bool = False
    above: bool = False  # `low` itself is not among them
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


def count(least: int, *others: Other, most: int = MANY) -> Range:
    """Whole numbers from `least` to `most`, or one of `others`."""
    return Range(least, most, others, whole=True)


def positive(most: float, *others: Other) -> Range:
    """Numbers above 0 and at most `most`, or one of `others`."""
    return Range(0, most, others, above=True)


class Decides(Enum):
    """What a knob decides."""

    numbers = "the run's numbers"
    speed = "how fast it computes"
    location = "where it reads, writes and reports"
    scoring = "what lmft evaluate scores"


def knob(
    allowed: Range | None = None,
    decides: Decides = Decides.numbers,
    may_be_empty: bool = False,
    formerly: Any = MISSING,
    is_path_list: bool = False,
) -> dict[str, Any]:
    """Return the metadata of a knob's field; its default is in `conf/`.

    Args:
        allowed: the numbers that it may be; None for what is not a number.
        decides: what follows from it; a group's holds for knobs that the schema does not list.
        may_be_empty: whether an empty text is a value.
        formerly: what runs did before the knob existed, if it is younger than they are; with this
            value the knob is in no key, so that they are found again.
        is_path_list: whether it is a path or a list of paths.
    """
    declared = {"allowed": allowed, "decides": decides, "may_be_empty": may_be_empty}
    declared |= {"is_path_list": is_path_list}
    return declared if formerly is MISSING else declared | {"formerly": formerly}
