"""`lmft doctor`: say what is there, and what would be slow or missing, and how to fix it."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lmft.analysis.doctor.findings import Fact, Finding, Found, Kind
from lmft.analysis.doctor.places import describe_place
from lmft.analysis.doctor.reachable import ask_hub, ask_tracker, repositories
from lmft.analysis.doctor.software import describe_environment, describe_software
from lmft.config.build import build
from lmft.config.compose import compose_run
from lmft.errors import Fault, UserError
from lmft.output.sanitize import redact
from lmft.output.terminal import Screen, Terminal, counted
from lmft.runs.run import Run

STYLES = {Kind.missing: "red", Kind.slow: "yellow", Kind.note: "dim"}


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: a word can't be used.
        Fault: something is missing that a run needs.
    """
    run = Run(*compose_run(arguments.words))
    environment = [*describe_environment()]
    console = Screen()
    with Terminal(console).status("checking software, devices, folders, hub and tracker"):
        found = [*look(run, arguments.words), *environment]
    show(found, console)
    missing = sum(isinstance(one, Finding) and one.kind is Kind.missing for one in found)
    if missing:
        raise Fault(
            f"This run lacks {counted(missing, 'thing')}; do what the lines say that begin with "
            "missing."
        )


def look(run: Run, words: Iterable[str]) -> list[Fact | Finding]:
    """Return what is found; the hub and the store are asked while torch is imported."""
    hub, tracker = ask_hub(repositories(run.values)), ask_tracker(run.tracker)
    from huggingface_hub import constants

    from lmft.analysis.doctor.machine import describe_machine

    found = [*describe_software(words), *describe_machine(build(run.typed.hardware))]
    found += describe_place("run_root", Path(run.typed.run_root))
    found += describe_place("cache_root", Path(run.typed.cache_root))
    found += describe_place("HF_HUB_CACHE", Path(constants.HF_HUB_CACHE))
    return [*found, *check_corpus(run), *hub.wait(), *tracker.wait()]


def check_corpus(run: Run) -> Found:
    """Yield what is wrong with the paths of the corpus; one on the hub is not opened."""
    try:
        if "train" not in run.splits:
            yield Finding(Kind.missing, "dataset.train has no value; set it to a file or a folder.")
        if "dataset" not in repositories(run.values).values():
            for split in run.splits.values():
                split.source.parts(split.where)
    except UserError as error:
        yield Finding(Kind.missing, str(error))


def show(found: list[Fact | Finding], console: Screen) -> None:
    """Print the facts, then the findings, those that matter most first."""
    for kind in (None, *Kind):
        lines = Table.grid(padding=(0, 2))
        lines.add_column(no_wrap=True)
        lines.add_column(overflow="fold")
        for one in found:
            if isinstance(one, Fact) and kind is None:
                lines.add_row(Text(one.name, "cyan"), Text(redact(one.text)))
            elif isinstance(one, Finding) and one.kind is kind:
                lines.add_row(Text(kind.value, STYLES[kind]), Text(redact(one.sentence)))
        if lines.row_count:
            console.print(lines)
