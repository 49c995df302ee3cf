"""The verbs of the command line and their arguments, as argparse parsers; all imports are light.

A knob is a word such as `tokens=50`, as in Hydra's overrides; argparse sees it as `--tokens=50`.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from lmft.errors import UserError, did_you_mean

Convert = Callable[[str], Any]


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


def choice(*choices: str) -> Convert:
    """Return a converter that accepts only `choices`."""

    def convert(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"is {text!r}; choose {' or '.join(choices)}.")
        return text

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

    @property
    def attribute(self) -> str:
        """The attribute of the parsed arguments that holds its value."""
        return self.name.replace(".", "_")


RUN = Knob("run", "a run's folder, or the id of its MLflow run", "RUN")


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    module: str  # of lmft.commands, with a function main(arguments)
    summary: str
    usage: str
    example: str
    knobs: tuple[Knob, ...] = ()


VERBS = {
    "evaluate": Verb(
        "evaluate",
        "score the best weights of a run, or any model",
        "run=RUN | model=... [KNOB=VALUE ...]",
        "lmft evaluate run=runs/NAME evaluation.stride=64",
        (RUN,),
    ),
    "generate": Verb(
        "generate",
        "continue a text, or fill its mask tokens",
        "run=RUN | model=... prompt=TEXT [KNOB=VALUE ...]",
        'lmft generate run=runs/NAME prompt="The if statement" tokens=40',
        (
            RUN,
            Knob("prompt", "the text to continue or to fill", "TEXT", ""),
            Knob("tokens", "new tokens at most (default 50)", "N", 50, number(1, 1_000_000, int)),
            Knob(
                "temperature", "0 takes the likeliest token (default 0.8)", "X", 0.8, number(0, 100)
            ),
            Knob(
                "top_p",
                "probability mass to sample from (default 0.95)",
                "X",
                0.95,
                number(1e-6, 1),
            ),
            Knob("seed", "sampling seed (default 0)", "N", 0, number(0, 2**63 - 1, int)),
        ),
    ),
    "compare": Verb(
        "compare",
        "say which run is better, and whether that is more than chance",
        "RUN RUN ... [KNOB=VALUE ...]",
        "lmft compare runs/ONE runs/OTHER evaluation.split=test",
        (
            Knob(
                "evaluation.split",
                "test, validation or train (default: the first that all runs have)",
                "SPLIT",
                convert=choice("test", "validation", "train"),
            ),
            Knob("tracker.uri", "the MLflow store (default ./mlflow.db)", "STORE"),
            Knob("tracker.experiment_name", "all finished runs of this experiment", "NAME"),
            Knob("out", "folder of compare.md and compare.html (default: the first run's)", "PATH"),
        ),
    ),
    "verify": Verb(
        "verify",
        "check that a resumed run is bit-identical, or that micro-batch sizes agree",
        "resume|batch [KNOB=VALUE ...]",
        "lmft verify resume model=gpt2_tiny trainer.max_steps=20",
    ),
    "plan": Verb(
        "plan",
        "estimate memory, disk and time of a run",
        "[KNOB=VALUE ...]",
        "lmft plan model=gpt2 trainer.batch_size=32",
    ),
    "profile": Verb(
        "profiling",
        "profile a training step",
        "[steps=5] [KNOB=VALUE ...]",
        "lmft profile model=gpt2 steps=10",
        (Knob("steps", "steps to measure (default 5)", "N", 5, number(1, 1000, int)),),
    ),
    "runs": Verb(
        "runs",
        "list runs: state, size, perplexity, what differs",
        "[run_root=PATH]",
        "lmft runs run_root=/scratch/runs",
    ),
    "clean": Verb(
        "clean",
        "delete runs (default: unfinished ones) after confirmation",
        "[RUN ...] [cache=true] [yes=true] [KNOB=VALUE ...]",
        "lmft clean cache=true",
        (
            Knob("cache", "true: delete cached tokens and tokenizers, too", "true", False, flag),
            Knob("yes", "true: do not ask for confirmation", "true", False, flag),
        ),
    ),
    "sync": Verb(
        "sync",
        "send MLflow the metrics that it lacks",
        "[RUN ...] [run_root=PATH] [tracker.KNOB=VALUE ...]",
        "lmft sync tracker.uri=http://host:5000",
    ),
}


class KnobFormatter(argparse.RawDescriptionHelpFormatter):
    """Show knobs as users write them: `tokens=N` for `--tokens N`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._StoreAction) and action.option_strings:
            return f"{action.option_strings[0][2:]}={action.metavar}"
        return super()._format_action_invocation(action)


class VerbParser(argparse.ArgumentParser):
    """An argument parser that raises what argparse would print before it exits."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, in which a knob has the name that users write.

        Raises:
            UserError: always.
        """
        sentence = re.sub(r"^argument --(\S+): ", r"\1 ", message)
        if sentence == message:
            sentence = f"{self.prog}: {message}; see {self.prog} --help."
        raise UserError(sentence)


def verb_parser(name: str) -> VerbParser:
    """Return the parser of a verb.

    Raises:
        UserError: there is no such verb.
    """
    if name not in VERBS:
        raise UserError(
            f"There is no verb {name!r}; lmft KNOB=VALUE ... trains, see lmft --help."
            + did_you_mean(name, VERBS)
        )
    verb = VERBS[name]
    parser = VerbParser(
        prog=f"lmft {name}",
        usage=f"lmft {name} {verb.usage}",
        description=f"{verb.summary[:1].upper()}{verb.summary[1:]}.",
        epilog=f"example:\n  {verb.example}",
        formatter_class=KnobFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    knobs = parser.add_argument_group("knobs of this verb") if verb.knobs else None
    for knob in verb.knobs:
        assert knobs is not None
        knobs.add_argument(
            f"--{knob.name}",
            dest=knob.attribute,
            metavar=knob.metavar,
            default=knob.default,
            type=knob.convert,
            help=knob.help,
        )
    return parser


def parse_words(name: str, words: list[str]) -> argparse.Namespace:
    """Parse the words of a verb: its own knobs by attribute, all other words as `words`.

    Raises:
        UserError: a value is refused, or a flag is unknown.
    """
    parser = verb_parser(name)
    own = {knob.name for knob in VERBS[name].knobs}
    knobs = [word for word in words if word.partition("=")[0] in own and "=" in word]
    flags = [word for word in words if word.startswith("-")]
    arguments = parser.parse_args([*(f"--{knob}" for knob in knobs), *flags])
    arguments.words = [word for word in words if word not in (*knobs, *flags)]
    return arguments
