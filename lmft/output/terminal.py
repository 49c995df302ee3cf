"""What a run prints to the terminal."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lmft.metrics import TokenLoss
from lmft.output.sanitize import redact, redact_all, strip_control

if TYPE_CHECKING:
    from lmft.evaluation.generation import Sample
    from lmft.trainer.step import Step


class Screen(Console):
    """Rich's console, which reads no text as markup and lets no text steer the terminal."""

    def __init__(self, **more: Any):
        """Takes what rich's console takes."""
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **more})

    def render(self, *what: Any, **more: Any) -> Iterable[Segment]:
        """Its own control codes, and texts without any."""
        for segment in super().render(*what, **more):
            if segment.control:
                yield segment
            else:
                yield Segment(strip_control(segment.text), segment.style)


STATES = {"finished": "green", "failed": "red"}  # others: yellow

SHORT_REASON = 16  # characters

KNOBS = {  # those that tell most about a group, in the order shown
    "dataset": ("name", "document", "separator", "block_size", "max_documents"),
    "model": ("label", "name", "from_scratch", "tokenizer", "config", "dropout"),
    "objective": ("_target_", "mask_fraction"),
    "optimizer": ("_target_", "lr", "weight_decay"),
    "trainer": ("epochs", "max_steps", "batch_size", "schedule", "warmup_steps"),
}


class Terminal:
    """The run's side of the conversation with a person."""

    def __init__(self, console: Console | None = None, brief: bool = False):
        """With `brief`, as for the jobs of a sweep, only losses and the final line are shown."""
        self._console = console or Screen()
        self.brief = brief

    def show_config(self, title: str, values: Mapping[str, Any], facts: Mapping[str, str]) -> None:
        """A short tree of what was composed, and of what it came to."""
        if self.brief:
            return
        tree = Tree(Text(title, style="bold"))
        for group, knobs in KNOBS.items():
            line = Text(group, style="cyan", end="")
            for knob in knobs:
                value = redact_all(values[group].get(knob))
                if value not in (None, {}, False):
                    name = (f"  {knob.replace('_target_', '')}".rstrip(), "dim not cyan")
                    line.append_text(Text.assemble(name, (f" {_short(value)}", "default")))
            branch = tree.add(line)
            if group in facts:
                branch.add(Text(facts[group], style="green"))
        for group in facts.keys() - KNOBS.keys():
            tree.add(Text.assemble((group, "cyan"), "  ", (facts[group], "green")))
        self._console.print(tree)

    def say(self, text: str, style: str = "") -> None:
        """One line."""
        self._console.print(Text(redact(text), style=style), soft_wrap=True)

    def show_loss(self, step: int, split: str, loss: TokenLoss, note: str = "") -> None:
        """One evaluation, on a line."""
        self.say(
            f"step {step:>6,}  {split} loss {loss.mean:.4f}  perplexity {loss.perplexity:,.2f}  "
            f"{loss.targets:,} targets{note}"
        )

    def show_samples(self, title: str, samples: "list[Sample]") -> None:
        """What the model makes of a few texts."""
        if self.brief:
            return
        self.say(f"Samples {title}", style="bold")
        for sample in samples:
            prompt, answer = (" ".join(text.split()) for text in (sample.prompt, sample.answer))
            self._console.print(Text.assemble("  ", (prompt, "dim"), " → ", answer))

    def show_results(self, rows: list[tuple[str, int, TokenLoss]]) -> None:
        """The final table: name, step and loss."""
        if self.brief:
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("", "step", "loss, nats a token", "perplexity", "targets"):
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
        """What became of a sweep's jobs: number, knobs, state, validation loss, reason.

        A long reason stands below the table, where it has the whole width.
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
            style, fits = STATES.get(state, "yellow"), len(reason) <= SHORT_REASON
            shown = reason if fits else "see below"
            table.add_row(
                str(number), Text(knobs), Text(state, style), perplexity, Text(shown, "dim")
            )
            if not fits:
                below.add_row(Text(f"job {number}", style), Text(reason))
        self._console.print(table)
        if below.row_count:
            self._console.print(below)

    def show_facts(self, result: Mapping[str, Any]) -> None:
        """The numbers of a result that its label leaves out."""
        names = ("loss", "bits_per_byte", "word_perplexity", "nats", "targets", "bytes", "words")
        shown = [f"{name} {result[name]:,.7g}" for name in names if name in result]
        self.say("  ".join(shown), style="dim")

    @contextmanager
    def progress(self, steps: int) -> Iterator["Bars"]:
        """Bars for training and, while it lasts, evaluation."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield Bars(progress, steps)


class Bars:
    """The progress bars of one run."""

    def __init__(self, progress: Progress, steps: int):
        self._progress = progress
        self._training = progress.add_task("training", total=steps, facts="")

    def show_step(self, step: "Step") -> None:
        """Move on by one optimizer step."""
        speed = f"{step.tokens / step.seconds:,.0f} tokens/s"
        share = f"({100 * step.share_of_limit:.0f} % of the limit)"
        facts = f"loss {step.loss.mean:.3f}  {speed} {share}"
        self._progress.update(self._training, completed=step.number, facts=facts)

    @contextmanager
    def evaluation(self, split: str, blocks: int) -> Iterator[Any]:
        """A bar for one evaluation; yields what is to be told of blocks done."""
        task = self._progress.add_task(split, total=blocks, facts="")
        yield lambda done: self._progress.advance(task, done)
        self._progress.remove_task(task)


def _short(value: Any) -> str:
    """The last part of a dotted name; other values as they are."""
    text = str(value)
    return text.rpartition(".")[2] if text.startswith(("lmft.", "torch.")) else repr_text(text)


def repr_text(text: str) -> str:
    """Control characters made visible, so that a value can't play with the terminal."""
    return text if text.isprintable() else repr(text)


def readable_size(size: int) -> str:
    """`size` bytes, for a person."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1e3:,.1f} kB"
