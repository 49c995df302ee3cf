"""Calls on one run or none. A call leaves nothing behind in the process but the run's folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from lmft.api.trained_run import Run
from lmft.commands.isolation import as_library
from lmft.commands.words import as_words, check_words
from lmft.runs.find_run import find_folder
from lmft.runs.run import Run as BaseRun

if TYPE_CHECKING:
    from lmft.config.schema import RunConfig


def compose(*words: str, **groups: str) -> "RunConfig":
    """Return the config that `lmft WORDS...` would train on; nothing is loaded or written.

    Args:
        words: GROUP=CHOICE, KNOB=VALUE or --config-dir=DIR, as on the command line.
        groups: choices of groups, as in experiment="mine".

    Raises:
        UserError: something in the words can't be done.
    """
    with as_library():
        from lmft.config.compose import compose_run

        return BaseRun(*compose_run([*check_words(words), *as_words(groups)])).config


def train(
    *words: str,
    from_run: BaseRun | str | Path | None = None,
    seed: int | None = None,
    run_root: str | Path | None = None,
    cache_root: str | Path | None = None,
    fresh: bool | None = None,
    **groups: str,
) -> Run:
    """Train, as `lmft WORDS...` does; the same words again answer from the run's folder.

    Args:
        words: GROUP=CHOICE or KNOB=VALUE, as on the command line.
        from_run: a finished run to train on from, or its folder or MLflow id.
        seed: of new weights, data order, masks and dropout.
        run_root: the parent of all run folders.
        cache_root: of tokenized corpora, trained tokenizers and losses before step 1.
        fresh: rename an existing run and start over.
        groups: choices of groups, as in model="gpt2_tiny".

    Raises:
        UserError: something in the words can't be done.
        RunLocked: another process is at this run.
        Fault: a problem of the machine, such as a full disk.
        FloatingPointError: a loss is not finite.
        KeyboardInterrupt: a checkpoint is saved; the same words resume the run.
    """
    source = from_run.folder if isinstance(from_run, BaseRun) else from_run
    named = {
        "from_run": source,
        "seed": seed,
        "run_root": run_root,
        "cache_root": cache_root,
        "fresh": fresh,
    }
    with as_library():
        from lmft.commands.train import train_words

        return Run(train_words([*check_words(words), *as_words({**groups, **named})]))


def data(
    *words: str,
    html: str | Path | None = None,
    cache_root: str | Path | None = None,
    **groups: str,
) -> None:
    """Print what a model will read, as `lmft data WORDS...` does; nothing is trained.

    Args:
        words: GROUP=CHOICE or KNOB=VALUE, as of `lmft.train`.
        html: write it as a page to this path, too.
        cache_root: of tokenized corpora and trained tokenizers.
        groups: choices of groups, as in model="gpt2_tiny".

    Raises:
        UserError: something in the words can't be done.
    """
    with as_library():
        from lmft.commands.data import show_data

        named = as_words({**groups, "cache_root": cache_root})
        show_data([*check_words(words), *named], None if html is None else str(html))


def login(token: str | None = None) -> None:
    """Log in to the Hugging Face Hub by its own library, which keeps the token.

    Args:
        token: from https://huggingface.co/settings/tokens; None: asks for it, unless you are
            logged in.

    Raises:
        UserError: the hub does not accept the token or can't be reached.
    """
    with as_library():
        import huggingface_hub

        from lmft.storage.hub_upload import upload_errors

        with upload_errors("your account"):
            huggingface_hub.login(token)


def load(run: str | Path, tracker_uri: str | None = None) -> Run:
    """Return a run by its folder or the id of its MLflow run.

    Args:
        run: the folder or id; of a sweep, it means the best run.
        tracker_uri: the MLflow store of the id; None: mlflow.db in the working directory.

    Raises:
        UserError: there is no such run.
    """
    with as_library():
        return Run(find_folder(str(run), tracker_uri))
