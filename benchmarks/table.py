"""The table: for a file as Markdown, and for a person's screen."""

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Figure
from benchmarks.store import Store

HEAD = (
    "row",
    "figure",
    "pairs",
    "lmft",
    "the other",
    "value",
    "least to most",
    "target",
    "reached",
)
NOTES = """\
Medians over pairs; the value is the ratio of the medians, lmft's over the other's, or lmft's own
where it stands alone; least and most are of single pairs. The other is transformers.Trainer, and
for tokenizing datasets.map. A target with * has a stretch goal after the star; one in parentheses
is set for another precision than the one measured. Share of the limit: operations a second, 6 a
parameter and token and 6·layers·hidden·block a token for causal attention, over the best rate of a
product of 2048×2048 matrices in the same run and precision."""


def lines_of(store: Store, order: list[str]) -> list[tuple[str, ...]]:
    """The table's lines as texts: the rows of `order` first, as they stand there."""
    rows = store.rows()
    names = sorted(rows, key=lambda name: order.index(name) if name in order else len(order))
    lines = []
    for name in names:
        pairs, figures = rows[name]
        for number, figure in enumerate(figures):
            first = (name, str(pairs)) if number == 0 else ("", "")
            lines.append((first[0], f"{figure.name}, {figure.unit}", first[1], *cells(figure)))
    return lines


def cells(figure: Figure) -> tuple[str, ...]:
    """Both sides' medians, the value with its spread, the target and whether it is reached."""
    ours, theirs = (statistics.median(side) if side else None
                    for side in (figure.ours, figure.theirs))  # fmt: skip
    least, most = figure.spread
    one = len(figure.ours) == 1
    return (
        "" if theirs is None else short(ours),
        short(theirs),
        short(figure.value),
        "" if one else f"{short(least)} to {short(most)}",
        "" if figure.target is None else str(figure.target),
        figure.verdict,
    )


def short(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def where(context: dict[str, Any]) -> str:
    """Commit, machine and versions, in a line."""
    found = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    return f"Commit {context['commit']}; {context['hardware']}; {found}."


def as_markdown(store: Store, order: list[str]) -> str:
    """The file."""
    lines = [HEAD, ("---",) * len(HEAD), *lines_of(store, order)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("*", r"\*")
    return f"# Bench\n\n{where(store.context)}\n\n{table}\n\n{NOTES}\n"


def show(store: Store, order: list[str], console: Console) -> None:
    """The same on the screen."""
    table = Table(*HEAD, box=None, header_style="bold", pad_edge=False)
    for line in lines_of(store, order):
        style = {"NO": "red", "yes": "green", "yes, *": "green"}.get(line[-1], "")
        table.add_row(Text(line[0], "bold"), *line[1:-1], Text(line[-1], style))
    console.print(Text(where(store.context)), table, Text(NOTES, "dim"), sep="\n\n")
