"""The table of results, as Markdown and for the terminal."""

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
    "reference",
    "value",
    "min to max",
    "target",
    "reached",
)
NOTES = """\
lmft and reference are medians over pairs. The value is the ratio of the medians, lmft /
reference, or lmft's median if there is no reference; min and max are over single pairs. The
reference is transformers.Trainer; for tokenize, datasets.map; for ddp, 1 process; for fsdp,
ddp. A number after * is a stretch goal. A target in parentheses is set for another precision
than the one measured. Share of the limit is the model FLOPs utilization (MFU): 6 FLOPs per
parameter and token, and 6·layers·hidden·block per token for causal attention, divided by the
best rate of a product of 2048×2048 matrices in the same run and precision."""


def lines_of(store: Store, order: list[str]) -> list[tuple[str, ...]]:
    """Return the cells of each line; rows in `order` come first, in that order."""
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
    """Return the medians of both sides, the value, its range, the target and the verdict."""
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
    """Format with at least three significant digits; None becomes ""."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def where(context: dict[str, Any]) -> str:
    """Format the commit, the machine and the versions as one line."""
    found = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    return f"Commit {context['commit']}; {context['hardware']}; {found}."


def as_markdown(store: Store, order: list[str]) -> str:
    """Return the contents of bench.md."""
    lines = [HEAD, ("---",) * len(HEAD), *lines_of(store, order)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("*", r"\*")
    return f"# Bench\n\n{where(store.context)}\n\n{table}\n\n{NOTES}\n"


def show(store: Store, order: list[str], console: Console) -> None:
    """Print the table to the terminal."""
    table = Table(*HEAD, box=None, header_style="bold", pad_edge=False)
    for line in lines_of(store, order):
        style = {"NO": "red", "yes": "green", "yes, *": "green"}.get(line[-1], "")
        table.add_row(Text(line[0], "bold"), *line[1:-1], Text(line[-1], style))
    console.print(Text(where(store.context)), table, Text(NOTES, "dim"), sep="\n\n")
