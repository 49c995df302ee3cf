"""Show a comparison in the terminal; no text is read as markup."""

from textwrap import wrap

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lmft.analysis.compare.ranking import Comparison
from lmft.analysis.compare.report import build_sections, title_of
from lmft.analysis.compare.sentences import selection_sentence, separation_sentences
from lmft.analysis.compare.settings import TITLE as SETTINGS
from lmft.analysis.compare.tables import MERGED, MISSING, Table, runs_table
from lmft.output.terminal import print_sentence

LONGEST_HEADER = 14  # characters of a line


def show(comparison: Comparison, notes: list[str], console: Console) -> None:
    """Print tables and sentences."""
    console.print(Text(title_of(comparison), style="bold"))
    for text in [*notes, *separation_sentences(comparison)]:
        console.print(Text(text, style="yellow"))
    console.print(Text(selection_sentence(comparison)))
    for section in build_sections(comparison):
        console.print(Text(f"\n{section.title}", style="cyan"))
        show_ranking(section.table, console)
        if section.settings is not None:
            console.print(Text(SETTINGS, style="dim"))
            show_ranking(section.settings, console)
        for text in section.sentences:
            show_item(text, console)
        if section.pairs is not None and len(section.pairs.rows) > 1:
            console.print(Text(section.pairs_title, style="dim"))
            show_table(section.pairs, console)
    console.print()
    for letter, folder, label in runs_table(comparison).rows:
        console.print(Text.assemble((letter, "bold"), f"  {folder}"), soft_wrap=True)
        print_sentence(Text(f"   {label}", style="dim"), console)


def show_ranking(table: Table, console: Console) -> None:
    """Print runs and their numbers; knobs that don't fit the width are listed below."""
    knobs = [n for n in range(1, len(table.header)) if n not in table.numbers]
    if MERGED not in table.header and width(table) <= console.width:
        show_table(table, console)
        return
    kept = [n for n in range(len(table.header)) if n not in knobs]
    rows = [[row[n] for n in kept] for row in table.rows]
    numbers = frozenset(range(1, len(kept)))
    show_table(Table([table.header[n] for n in kept], rows, numbers), console)
    for row in table.rows:
        values = [f"{table.header[n]}={row[n]}" for n in knobs if row[n] != MISSING]
        if MERGED in table.header:
            values = row[knobs[0]].splitlines()
        show_item("  ".join(values), console, row[0])


def width(table: Table) -> int:
    """Return the width of a table in characters, with gaps of two."""
    columns = zip(*[map(wrap_name, table.header), *table.rows], strict=True)
    return sum(
        2 + max(len(line) for cell in cells for line in cell.split("\n")) for cells in columns
    )


def wrap_name(name: str) -> str:
    """Return a column's name on several lines."""
    parts = name.replace(", ", ",\n").replace(".", ".\n").split("\n")
    return "\n".join(line for part in parts for line in wrap(part, LONGEST_HEADER))


def show_table(table: Table, console: Console) -> None:
    """Print one table; cells of text may wrap, numbers not."""
    shown = RichTable(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(table.header):
        if number in table.numbers:
            shown.add_column(Text(wrap_name(name)), justify="right", no_wrap=True)
        else:
            shown.add_column(Text(wrap_name(name)), overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)


def show_item(text: str, console: Console, bullet: str = "•") -> None:
    """Print an item of a list, with its lines indented."""
    item = RichTable.grid(padding=(0, 1))
    item.add_row(Text(bullet), Text(text, overflow="fold"))
    console.print(item)
