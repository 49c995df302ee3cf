"""Show an overview of a corpus in the terminal; no text is read as markup."""

from functools import partial
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lmft.dataset.overview.describe import Histogram, Overview
from lmft.dataset.overview.excerpts import Excerpt, Span
from lmft.output.terminal import counted

BAR = 40  # characters of the longest bar
LEARNT, SPECIAL, ADDED = "green", "bold", "dim"  # styles; added: what the model does not see


def show(overview: Overview, console: Console) -> None:
    """Print sizes, lengths and excerpts."""
    console.print(Text.assemble((overview.title, "bold"), f" · {overview.subtitle}"))
    read = Table.grid(padding=(0, 2))
    for split in overview.splits:
        read.add_row(Text(split.name, "cyan"), Text(split.read))
    console.print(read)
    console.print()
    console.print(sizes_table(overview))
    console.print(Text(f"\n{overview.lengths_title}", "bold"))
    console.print(lengths_table(overview.lengths, console.options.ascii_only))
    console.print(Text(overview.longer, "dim"))
    console.print(Text(f"\n{overview.explanation}", "bold"))
    for excerpt in overview.excerpts:
        show_excerpt(excerpt, console)


def sizes_table(overview: Overview) -> Table:
    """Return a row of numbers for each split."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("documents", "median", "longest", "tokens", "blocks", "full"):
        table.add_column(name, justify="right")
    table.add_column(overview.learnt_label, justify="right")
    for split in overview.splits:
        numbers = (split.documents, split.median, split.longest, split.tokens, split.blocks)
        shares = (f"{split.fill:.1%}", f"{split.learnt:.1%}")
        table.add_row(split.name, *(f"{number:,}" for number in numbers), *shares)
    return table


def lengths_table(lengths: Histogram, ascii_only: bool) -> Table:
    """Return a row with a bar for each range of lengths."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    most = max(one.share for one in lengths.bins)
    for one in lengths.bins:
        bar = text_bar(one.share / most, ascii_only)
        table.add_row(
            one.label, Text(bar, "yellow" if one.is_longer else "cyan"), f"{one.share:.1%}"
        )
    return table


def text_bar(share: float, ascii_only: bool) -> str:
    """Return a bar; it is as exact as an eighth of a character where there are such."""
    if ascii_only:
        return "#" * round(share * BAR)
    whole, eighths = divmod(round(share * BAR * 8), 8)
    return "█" * whole + (chr(ord("█") + 8 - eighths) if eighths else "")


def show_excerpt(excerpt: Excerpt, console: Console) -> None:
    """Print a block, and how much of it is not shown."""
    console.print(Text(excerpt.title, "cyan"))
    has_color = console.color_system is not None and not console.no_color
    lines = [mark_spans(excerpt, has_color, console.options.ascii_only)]
    if excerpt.before:
        lines.insert(0, Text(describe_hidden(excerpt.before, "before"), "dim"))
    if excerpt.after:
        lines.append(Text(describe_hidden(excerpt.after, "more"), "dim"))
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 2), expand=False))


def mark_spans(excerpt: Excerpt, has_color: bool, ascii_only: bool) -> Text:
    """Return the text of a block; what is learnt is between marks where there is no color."""
    opening, closing = "[]" if ascii_only else "⟦⟧"
    marks = ("\\n", "\\t", "_") if ascii_only else ("↵", "⇥", "·")
    text = Text()
    for (is_marked, _), spans in groupby(enumerate(excerpt.spans), partial(mark_of, excerpt)):
        text.append(opening if is_marked and not has_color else "")
        for _, span in spans:
            style = " ".join((LEARNT * is_marked, SPECIAL * span.is_special))
            for part, is_added in span.parts(*marks):
                text.append(part, f"{style} {ADDED}" if is_added else style)
        text.append(closing if is_marked and not has_color else "")
    text.rstrip()
    return text


def mark_of(excerpt: Excerpt, numbered: tuple[int, Span]) -> tuple[bool, int]:
    """Return whether a span is marked; each with another target has marks of its own."""
    number, span = numbered
    return span.is_learnt and excerpt.is_marked, number if span.target else -1


def describe_hidden(tokens: int, where: str) -> str:
    """Return how many tokens of a block are not shown."""
    return f"... {counted(tokens, 'token')} {where}"
