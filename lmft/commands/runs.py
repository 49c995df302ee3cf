"""`lmft runs`: list the runs under run_root, with the knobs in which they differ."""

import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lmft.config.compose import compose
from lmft.output.terminal import Screen, counted, readable_size
from lmft.runs.listing import ListedRun, list_runs

COLUMNS = ("run", "state", "size", "perplexity", "differs in", "started")
STYLES = {"finished": "green", "running": "cyan", "evaluated": "blue"}  # others: yellow
PIPE_WIDTH = 1000  # columns where stdout is no terminal: no line is folded


def main(arguments: Namespace) -> None:
    """Run the command."""
    root = Path(compose(arguments.words).run_root).expanduser().absolute()
    console = Screen(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    entries = list_runs(root)
    if not entries:
        console.print(Text(f"No run in {root}; lmft starts one, run_root=PATH looks elsewhere."))
        return
    console.print(as_table(entries))
    total = readable_size(sum(entry.size for entry in entries))
    console.print(Text(f"{counted(len(entries), 'run')}, {total}, in {root}", style="dim"))
    if len({result["fingerprint"] for result in map(main_result, entries) if result}) > 1:
        console.print(
            Text("Not all perplexities are comparable: lmft compare RUN RUN says why.", "dim")
        )


def as_table(entries: list[ListedRun]) -> Table:
    """Return a table with a row for each run."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        numeric = column in ("size", "perplexity")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    labels = label_knobs([entry.knobs for entry in entries])
    for entry in entries:
        knobs = [
            f"{label}={show_value(entry.knobs[name])}"
            for name, label in labels.items()
            if name in entry.knobs
        ]
        table.add_row(
            Text(entry.path.name),
            Text(entry.state.value, STYLES.get(entry.state.value, "yellow")),
            readable_size(entry.size),
            perplexity(entry),
            Text(" ".join(knobs)),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.started)),
        )
    return table


def show_value(value: Any) -> str:
    """Return a knob's value on one line."""
    text = "null" if value is None else str(value)
    return text if text.isprintable() else repr(text)


def label_knobs(configs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the knobs whose values differ, each with its shortest unambiguous name."""
    names = dict.fromkeys(name for knobs in configs for name in knobs)
    differ = [name for name in names if len({repr(knobs.get(name)) for knobs in configs}) > 1]
    last = {name: name.rpartition(".")[2] for name in differ}
    count = Counter(last.values())
    return {name: short if count[short] == 1 else name for name, short in last.items()}


def main_result(entry: ListedRun) -> dict[str, Any] | None:
    """Return the result on the test split, else on validation, else on any."""
    ordered = [entry.results.get(split) for split in ("test", "validation", *entry.results)]
    return next((result for result in ordered if result), None)


def perplexity(entry: ListedRun) -> str:
    """Return the perplexity and its split."""
    result = main_result(entry)
    return "" if result is None else f"{result['perplexity']:,.2f} {result['conditions']['split']}"
