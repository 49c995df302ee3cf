"""The knobs that verbs have alone, and how their values are read."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Convert = Callable[[str], Any]

DEFAULT = "(default %(default)s)"  # argparse fills it in


def number(low: float, high: float, kind: type[int] | type[float] = float) -> Convert:
    """Return a converter to a number from `low` to `high`."""

    def convert(text: str) -> float:
        try:
            if low <= (value := kind(text)) <= high:
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(
            f"must be a number from {low:g} to {high:g}, not {text!r}."
        )

    return convert


def flag(text: str) -> bool:
    """Convert `true` or `false`."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be true or false.")
    return text == "true"


@dataclass(frozen=True)
class Knob:
    """A knob of a verb alone; all others are the config's."""

    name: str
    help: str
    metavar: str = "VALUE"
    default: Any = None
    convert: Convert = str
    choices: tuple[str, ...] | None = None

    @property
    def attribute(self) -> str:
        """The attribute of the parsed arguments that holds its value."""
        return self.name.replace(".", "_")


RUN = Knob("run", "a run's folder, or the id of its MLflow run", "RUN")
STORE = Knob("tracker.uri", "the MLflow store (default ./mlflow.db)", "STORE")
SAMPLING = (
    Knob("temperature", f"0 takes the likeliest token {DEFAULT}", "X", 0.8, number(0, 100)),
    Knob("top_p", f"probability mass to sample from {DEFAULT}", "X", 0.95, number(1e-6, 1)),
    Knob(
        "top_k",
        "sample from the K likeliest tokens (default 0: all)",
        "K",
        0,
        number(0, 1_000_000, int),
    ),
    Knob("stop", "end a text before this one; \\n is a line end", "TEXT", ""),
    Knob("seed", f"sampling seed {DEFAULT}", "N", 0, number(0, 2**63 - 1, int)),
)
