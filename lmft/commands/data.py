"""`lmft data`: what a model will read, before anything is trained."""

from argparse import Namespace
from pathlib import Path

from rich.text import Text

from lmft.config.compose import compose_run
from lmft.dataset.overview.page import as_html
from lmft.dataset.overview.show import show
from lmft.dataset.splits import warn_of_overlap
from lmft.errors import UserError
from lmft.output.terminal import Screen, Terminal
from lmft.runs.run import Run
from lmft.storage.atomic import write_text
from lmft.trainer.components import open_batches, warn_of_few_documents
from lmft.trainer.data_page import MOST, describe_data
from lmft.trainer.run_tokenizer import find_tokenizer

MOST_IN_TERMINAL = 256  # tokens of a block


def main(arguments: Namespace) -> None:
    """Run the command."""
    show_data(arguments.words, arguments.html)


def show_data(words: list[str], html: str | None) -> None:
    """Print what a model will read; with a path in `html`, write it as a page too.

    Raises:
        UserError: something in the config can't be done.
    """
    run = Run(*compose_run(words))
    config = run.config
    page = check_page(html)
    if not run.splits:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    console = Screen()
    with Terminal(console).status("reading the corpus"):
        warn_of_overlap(run.splits)
        tokenizer = find_tokenizer(config, run.splits)
        config.objective.check(tokenizer)
        batches = {n: open_batches(config, split, tokenizer) for n, split in run.splits.items()}
        warn_of_few_documents(run.splits, batches)
    show(describe_data(config, batches, MOST_IN_TERMINAL), console)
    if page is not None:
        write_text(page, as_html(describe_data(config, batches, MOST)))
        console.print(Text(f"\nLook    {page}"), soft_wrap=True)


def check_page(name: str | None) -> Path | None:
    """Return the path of the page, whose folder must exist; None without one.

    Raises:
        UserError: it can't be written there.
    """
    if name is None:
        return None
    path = Path(name).expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"is in {path.parent}, which does not exist"
        raise UserError(f"html={name} {wrong}; set html=PATH to a file, such as data.html.")
    return path
