"""Print a run's config, losses and results to the terminal."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lmft.metrics import TokenLoss
from lmft.output.bars import AnyBars, Bars, Lines
from lmft.output.notebook import NotebookBars, in_notebook
from lmft.output.sanitize import redact, redact_all, strip_control


class Screen(Console):
    """A rich console that ignores markup and control characters in text."""

    def __init__(self, **options: Any):
        """Accept the options of rich's Console."""
        plain = {"highlight": False, "markup": False, "emoji": False, "force_jupyter": False}
        super().__init__(**{**plain, "_environ": _environment(), **options})

    def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
        """Strip control characters from text segments; keep rich's own control codes."""
        for segment in super().render(*args, **kwargs):
            if segment.control:
                yield segment
            else:
                yield Segment(strip_control(segment.text), segment.style)


def print_sentence(text: Text, console: Console) -> None:
    """Print words: on a terminal, lines end between them; a file gets one line."""
    console.print(text, soft_wrap=not console.file.isatty())


def _environment() -> dict[str, str]:
    """Return the environment without a width or height of 0, in which nothing can be shown."""
    sizes = ("COLUMNS", "LINES")
    return {
        name: value for name, value in os.environ.items() if name not in sizes or value.strip("0")
    }


STATE_COLORS = {"finished": "green", "failed": "red"}  # others: yellow
MAX_INLINE_REASON = 16  # characters; longer ones are printed below the table
SHOWN_KNOBS = {  # the most informative knobs of each group, in print order
    "dataset": ("name", "document", "separator", "block_size", "max_documents", "drop_duplicates"),
    "model": ("label", "name", "from_scratch", "tokenizer", "config", "freeze", "dropout"),
    "adapter": ("kind", "rank", "alpha", "targets", "train_also"),
    "objective": (),  # all
    "optimizer": ("_target_", "lr", "weight_decay"),
    "trainer": ("epochs", "max_steps", "batch_size", "schedule", "warmup_steps"),
}


class Terminal:
    """Terminal output of a run."""

    def __init__(self, console: Console | None = None, brief: bool = False, prefix: str = ""):
        """Choose where and how much to print.

        Args:
            console: a rich console; by default one on stdout.
            brief: print only losses and the final lines, as for the jobs of a sweep.
            prefix: of each line, in place of progress bars: other jobs print there, too.
        """
        self._console = console or Screen()
        # FORCE_COLOR makes rich see a terminal, but nothing can be redrawn in a file.
        self._redraws = not prefix and self._console.is_terminal and self._console.file.isatty()
        self.brief, self._prefix = brief, prefix

    @staticmethod
    def quiet() -> "Terminal":
        """Return a terminal that prints nothing, for ranks other than 0."""
        return Terminal(Screen(quiet=True), brief=True)

    def show_config(self, title: str, values: Mapping[str, Any]) -> None:
        """Print the composed config as a short tree.

        Args:
            title: the root of the tree.
            values: the knobs of each group.
        """
        if self.brief:
            return
        tree = Tree(Text(redact(title), style="bold"))
        for group, knobs in SHOWN_KNOBS.items():
            if group == "adapter" and values[group].get("kind") == "none":
                continue
            line = Text(group, style="cyan", end="")
            for knob in knobs or values[group]:
                value = redact_all(values[group].get(knob))
                if value not in (None, {}, [], False):
                    name = (f"  {knob.replace('_target_', '')}".rstrip(), "dim not cyan")
                    line.append_text(Text.assemble(name, (f" {_short(value)}", "default")))
            tree.add(line)
        self._console.print(tree)

    def show_sizes(self, sizes: Mapping[str, str]) -> None:
        """Print a line for each thing that was loaded, such as the model with its size."""
        if self.brief:
            return
        lines = Table.grid(padding=(0, 2))
        for name, size in sizes.items():
            lines.add_row(Text(name, "cyan"), Text(redact(size), "green", overflow="fold"))
        self._console.print(lines)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show what is being done, until it is done."""
        if self.brief or not self._redraws:
            yield
            return
        spinner = "line" if self._console.options.ascii_only else "dots"
        with self._console.status(Text(text), spinner=spinner):
            yield

    def print(self, text: str, style: str = "") -> None:
        """Print a line without secrets; it stays whole, so that it can be copied."""
        self._console.print(Text(self._prefix + redact(text), style=style), soft_wrap=True)

    def print_sentence(self, text: str, style: str = "") -> None:
        """Print words without secrets; on a terminal, lines end between words."""
        print_sentence(Text(self._prefix + redact(text), style=style), self._console)

    def show_loss(self, step: int, split: str, loss: TokenLoss) -> None:
        """Print the result of an evaluation on one line."""
        self.print(
            f"step {step:>6,}  {split} loss {loss.mean:.4f}  perplexity {loss.perplexity:,.2f}  "
            f"{loss.targets:,} targets"
        )

    def show_samples(self, title: str, samples: list[tuple[str, str]]) -> None:
        """Print pairs of a prompt and the model's answer."""
        if self.brief or not samples:
            return
        self.print(f"Samples {title}", style="bold")
        for pair in samples:
            prompt, answer = (" ".join(text.split()) for text in pair)
            text = Text.assemble((prompt, "dim"), " → ", answer)
            self._console.print(Padding(text, (0, 0, 0, 2), expand=False))

    def show_results(self, rows: list[tuple[str, int, TokenLoss]]) -> None:
        """Print the final table: name, step and loss of each row."""
        if self.brief:
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("", "step", "loss, nats per token", "perplexity", "targets"):
            table.add_column(column, justify="left" if not column else "right")
        for name, step, loss in rows:
            table.add_row(
                name,
                f"{step:,}",
                f"{loss.mean:.4f}",
                f"{loss.perplexity:,.2f}",
                f"{loss.targets:,}",
            )
        self._console.print(table)

    def show_jobs(self, rows: list[tuple[int, str, str, float, str]]) -> None:
        """Print the jobs of a sweep: number, knobs, state, validation loss, reason of a failure.

        A long reason is printed below the table, where it has the full width.
        """
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("job", no_wrap=True)
        table.add_column("knobs", overflow="fold")
        table.add_column("state", no_wrap=True)
        table.add_column("validation perplexity", justify="right")
        table.add_column("", no_wrap=True)
        below = Table.grid(padding=(0, 2))
        for number, knobs, state, loss, reason in rows:
            perplexity = f"{math.exp(loss):,.2f}" if loss < 700 else ""
            knobs, reason = redact(knobs), redact(reason)
            style, fits = STATE_COLORS.get(state, "yellow"), len(reason) <= MAX_INLINE_REASON
            shown = reason if fits else "see below"
            table.add_row(
                str(number), Text(knobs), Text(state, style), perplexity, Text(shown, "dim")
            )
            if not fits:
                below.add_row(Text(f"job {number}", style), Text(reason, overflow="fold"))
        self._console.print(table)
        if below.row_count:
            self._console.print(below)

    def show_evaluation(self, result: Mapping[str, Any], is_known: bool = False) -> None:
        """Print the label of a result, and the numbers that the label does not have."""
        names = ("loss", "bits_per_byte", "word_perplexity", "nats", "targets", "bytes", "words")
        numbers = [f"{name} {result[name]:,.7g}" for name in names if name in result]
        self.print_sentence(f"{result['label']}{'  (known already)' if is_known else ''}")
        self.print_sentence("  ".join(numbers), style="dim")

    @contextmanager
    def progress(self, steps: int) -> Iterator[AnyBars]:
        """Show the progress of `steps` training steps, and of evaluations, while the block runs.

        As bars; as lines where they could not be redrawn.
        """
        if in_notebook() and not self._console.quiet:
            yield NotebookBars(steps)
            return
        if not self._redraws:
            yield Lines(self.print, steps)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield Bars(progress, steps)


def _short(value: Any) -> str:
    """Return the last part of a dotted name of lmft or torch, any other value as text."""
    text = str(value)
    return text.rpartition(".")[2] if text.startswith(("lmft.", "torch.")) else repr_text(text)


def repr_text(text: str) -> str:
    """Return `text` with control characters escaped, if it has any."""
    return text if text.isprintable() else repr(text)


def readable_size(size: int) -> str:
    """Return `size`, in bytes, as text in bytes, kB, MB or GB."""
    if size < 1e3:
        return counted(size, "byte")
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1e3:,.1f} kB"


def counted(number: int, noun: str) -> str:
    """Return a number of things: `1 document`, `2,000 documents`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
