"""`lmft compare`: which of several runs is better, and whether that is more than chance."""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from lmft.analysis.compare.ranking import compare_runs
from lmft.analysis.compare.report import report_files
from lmft.analysis.compare.show import show
from lmft.commands.words import refuse_knobs
from lmft.errors import UserError
from lmft.output.terminal import Screen
from lmft.sweep.records import read_jobs
from lmft.tracker.mlflow_query import ExistingStore, open_existing_store
from lmft.tracker.mlflow_store import find_folder_of_run, store_uri


@dataclass
class Selection:
    """The runs to compare."""

    folders: list[Path] = field(default_factory=list)
    parent: str | None = None  # the MLflow id of their sweep
    name: str = ""  # of their sweep or experiment
    notes: list[str] = field(default_factory=list)


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: a word names no run, or the runs can't be compared.
    """
    refuse_knobs("compare", arguments.words)
    uri, store = arguments.tracker_uri, open_existing_store(arguments.tracker_uri)
    selection = find_runs(arguments.words, uri, store)
    if arguments.tracker_experiment_name is not None:
        add_experiment(selection, arguments.tracker_experiment_name, uri, store)
    comparison = compare_runs(selection.folders, arguments.evaluation_split)
    console = Screen()
    show(comparison, selection.notes, console)
    texts = report_files(comparison, selection.notes, selection.name)
    folder = Path(arguments.out or selection.folders[0]).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    first = str(selection.folders[0])
    logged = store is not None and store.log_texts(selection.parent, first, texts)
    look = f"Look    {folder / 'compare.html'}{', also in MLflow' if logged else ''}"
    console.print(Text(look), soft_wrap=True)


def add_experiment(
    selection: Selection, name: str, uri: str | None, store: ExistingStore | None
) -> None:
    """Add all runs of the experiment `name`.

    Raises:
        UserError: there is no store, or no such experiment.
    """
    if store is None:
        raise UserError(
            f"tracker.experiment_name is {name!r}, but there is no {store_uri(uri)}; "
            "set tracker.uri."
        )
    experiment = store.find_experiment_runs(name)
    selection.name = selection.name or f"experiment {name}"
    add_runs(selection, experiment.folders, experiment.unfinished)


def find_runs(words: list[str], uri: str | None, store: ExistingStore | None) -> Selection:
    """Return the folders of all runs and sweeps that the words name.

    Args:
        words: folders, or MLflow ids.
        uri: of the store; None: the default one.
        store: that store, if it exists.

    Raises:
        UserError: a word names no run.
    """
    selection = Selection()
    for word in words:
        path = Path(word).expanduser().absolute()
        if path.is_dir():
            add_folder(selection, path)
            continue
        sweep = store.find_sweep_runs(word) if store is not None else None
        if store is not None and sweep is not None and (sweep.folders or sweep.unfinished):
            selection.parent = selection.parent or word
            selection.name = selection.name or store.name_of(word)
            add_runs(selection, sweep.folders, sweep.unfinished)
            continue
        folder = find_folder_of_run(word, uri)
        if folder is None:
            raise UserError(
                f"{word} is neither a run's folder nor a run or a sweep of "
                f"{store_uri(uri)}; set tracker.uri, or lmft runs lists those there are."
            )
        selection.folders.append(Path(folder))
    return selection


def add_folder(selection: Selection, folder: Path) -> None:
    """Add a run; in place of a sweep, add the runs of its jobs."""
    jobs = read_jobs(folder)
    finished = [job.folder for job in jobs if job.state == "finished"]
    if jobs:
        add_runs(selection, list(dict.fromkeys(finished)), len(jobs) - len(finished))
    else:
        selection.folders.append(folder)


def add_runs(selection: Selection, folders: list[str], unfinished: int) -> None:
    """Add the runs of a sweep or an experiment, and a note of those that can't be compared."""
    existing = [Path(folder) for folder in folders if Path(folder).is_dir()]
    selection.folders += existing
    lost = len(folders) - len(existing)
    for count, what in ((unfinished, "not finished"), (lost, "lost a folder")):
        if count:
            verb = "have" if count > 1 else "has"
            selection.notes.append(f"Left out: {count} that {verb} {what}.")
