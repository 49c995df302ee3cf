"""`lmft runs`: list the runs under run_root, with the knobs in which they differ."""

import sys
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lmft.config.compose import compose
from lmft.output.terminal import Screen, counted, readable_size
from lmft.runs.listing import ListedRun, list_runs

SPLITS = ("validation", "test")
HEADER = ("run", *SPLITS, "state", "started", "size")
NUMBERS = (*SPLITS, "size")  # aligned to the right
STYLES = {"finished": "green", "running": "cyan", "evaluated": "blue"}  # others: yellow
IN_NAME = ("model.", "dataset.", "objective.")  # groups whose choices are in the folder's name
LONGEST_VALUE = 24  # characters; of a longer value, the end is shown
ROOM_FOR_KNOBS = 40  # characters; with less, a run has two lines


def main(arguments: Namespace) -> None:
    """Run the command."""
    root = Path(compose(arguments.words).run_root).expanduser().absolute()
    console, piped = Screen(), not sys.stdout.isatty()
    entries = list_runs(root)
    if not entries:
        console.print(Text(f"No run in {root}; lmft starts one, run_root=PATH looks elsewhere."))
        return
    for line in as_lines(entries, None if piped else console.width):
        console.print(line, soft_wrap=piped)
    total = readable_size(sum(entry.size for entry in entries))
    numbers = "perplexity on validation and test"
    console.print(
        Text(f"{counted(len(entries), 'run')}, {numbers}; {total} in {root}", "dim"),
        soft_wrap=piped,
    )
    for split in SPLITS:
        found = [entry.results[split] for entry in entries if split in entry.results]
        if len({result["fingerprint"] for result in found}) > 1:
            note = f"Not all {split} perplexities are comparable: lmft compare RUN RUN says why."
            console.print(Text(note, "dim"), soft_wrap=piped)


def as_lines(entries: list[ListedRun], width: int | None) -> list[Text]:
    """Return a heading, and one line per run, or two where the knobs don't fit beside it.

    Args:
        entries: the runs.
        width: of the terminal, at which knobs are cut; None: there is none, and a run has one line.
    """
    rows = [HEADER, *map(cells_of, entries)]
    sizes = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    knobs = ["differs in", *map(" ".join, telling_knobs(entries))]
    short = width is not None and sum(sizes) + 2 * len(sizes) + ROOM_FOR_KNOBS > width
    first = 4 if short else len(HEADER)  # columns of the first line
    lines = []
    for number, (row, differing) in enumerate(zip(rows, knobs, strict=True)):
        padded = [pad(*cell) for cell in zip(row, HEADER, sizes, strict=True)]
        styles = ["" if number else "bold"] * len(row)
        styles[3] = STYLES.get(row[3], "yellow") if number else "bold"
        line = Text("  ").join(map(Text, padded[:first], styles))
        if short:
            lines.append(line)
            line = Text(f"  {'  '.join(map(str.strip, padded[first:]))}", "dim")
        line.append(f"  {differing}")
        line.rstrip()
        if width is not None:
            line.truncate(width, overflow="ellipsis")
        if number or not short:
            lines.append(line)
    return lines


def cells_of(entry: ListedRun) -> tuple[str, ...]:
    """Return the cells of a run, as in HEADER."""
    return (
        entry.path.name,
        *(perplexity(entry, split) for split in SPLITS),
        entry.state.value,
        time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.started)),
        readable_size(entry.size),
    )


def pad(cell: str, column: str, size: int) -> str:
    """Return the text of a cell in the width of its column."""
    return cell.rjust(size) if column in NUMBERS else set_cell_size(cell, size)


def telling_knobs(entries: list[ListedRun]) -> list[list[str]]:
    """Return each run's knobs that differ between runs; those with the most values come first.

    A knob of model, dataset or objective is left out if it follows from the folder's name, and so
    is a value of null. The run that a run continues is always shown.
    """
    configs = [entry.knobs for entry in entries]
    stems = [entry.path.name.rpartition("-")[0] for entry in entries]
    values: dict[str, set[tuple[str, str]]] = {}  # by knob: stem and value
    for stem, config in zip(stems, configs, strict=True):
        for name, value in config.items():
            values.setdefault(name, set()).add((stem, repr(value)))
    labels = {
        name: label
        for name, label in label_knobs(configs).items()
        if not name.startswith(IN_NAME) or len(values[name]) > len({s for s, _ in values[name]})
    }
    count = {name: len({value for _, value in values[name]}) for name in labels}
    order = sorted(labels, key=lambda name: (-count[name], name != "seed"))
    labels.pop("from_run", None)
    return [
        [
            *([f"from {show_value(config['from_run'])}"] if config.get("from_run") else []),
            *(
                f"{labels[name]}={show_value(config[name])}"
                for name in order
                if name in labels and config.get(name) is not None
            ),
        ]
        for config in configs
    ]


def show_value(value: Any) -> str:
    """Return a knob's value on one line; only the end of a long one."""
    text = str(value) if str(value).isprintable() else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"…{text[1 - LONGEST_VALUE :]}"


def label_knobs(configs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the knobs whose values differ, each with its shortest unambiguous name."""
    names = dict.fromkeys(name for knobs in configs for name in knobs)
    differ = [name for name in names if len({repr(knobs.get(name)) for knobs in configs}) > 1]
    last = {name: name.removesuffix("._target_").rpartition(".")[2] for name in differ}
    count = Counter(last.values())
    return {name: short if count[short] == 1 else name for name, short in last.items()}


def perplexity(entry: ListedRun, split: str) -> str:
    """Return the perplexity on a split; empty if the run has no result on it."""
    result = entry.results.get(split)
    return "" if result is None else f"{result['perplexity']:,.2f}"
