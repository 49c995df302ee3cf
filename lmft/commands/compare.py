"""The story of `lmft compare`: which of these runs is better, and is that more than chance?"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from lmft.analysis.compare.ranking import compare_runs
from lmft.analysis.compare.report import as_texts
from lmft.analysis.compare.run_results import SPLITS
from lmft.analysis.compare.show import show
from lmft.errors import UserError, did_you_mean
from lmft.output.terminal import Screen
from lmft.tracker.mlflow_query import History, open_history
from lmft.tracker.mlflow_store import folder_of, store_uri

KNOBS = ("evaluation.split", "tracker.uri", "tracker.experiment_name", "out")


@dataclass
class Question:
    """What the command line asks."""

    places: list[str] = field(default_factory=list)  # folders, MLflow ids, ids of sweeps
    knobs: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str | None:
        """The MLflow store; None: mlflow.db in the working directory."""
        return self.knobs.get("tracker.uri")


@dataclass
class Answer:
    """The runs that were meant."""

    folders: list[Path] = field(default_factory=list)
    parent: str | None = None  # the MLflow id of their sweep
    notes: list[str] = field(default_factory=list)


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft compare WORDS...`."""
    question = read_words(words)
    history = open_history(question.uri)
    answer = find_runs(question, history)
    comparison = compare_runs(answer.folders, question.knobs.get("evaluation.split"))
    console = Screen()
    show(comparison, answer.notes, console)
    texts = as_texts(comparison, answer.notes)
    place = Path(question.knobs.get("out", answer.folders[0])).expanduser().absolute()
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (place / name).write_text(text)
    kept = history is not None and history.keep(answer.parent, str(answer.folders[0]), texts)
    where = f"Look    {place / 'compare.html'}{', also in MLflow' if kept else ''}"
    console.print(Text(where), soft_wrap=True)


def read_words(words: list[str]) -> Question:
    """Runs, and the few knobs that comparing has.

    Raises:
        UserError: one is not a knob of lmft compare.
    """
    question = Question()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or Path(word).is_dir():
            question.places.append(word)
        elif name in KNOBS:
            question.knobs[name] = value
        else:
            raise UserError(
                f"lmft compare has no knob {name!r}, but {', '.join(KNOBS)}."
                + did_you_mean(name, KNOBS)
            )
    split = question.knobs.get("evaluation.split")
    if split not in (None, *SPLITS, "train"):
        raise UserError(f"evaluation.split is {split!r}; choose test, validation or train.")
    return question


def find_runs(question: Question, history: History | None) -> Answer:
    """The folders of all that was named.

    Raises:
        UserError: a word names no run.
    """
    answer = Answer()
    name = question.knobs.get("tracker.experiment_name")
    if name is not None:
        if history is None:
            raise UserError(
                f"tracker.experiment_name is {name!r}, but there is no {store_uri(question.uri)}; "
                "set tracker.uri."
            )
        known = history.of_experiment(name)
        add(answer, known.folders, known.unfinished)
    for place in question.places:
        path = Path(place).expanduser().absolute()
        if path.is_dir():
            answer.folders.append(path)
            continue
        sweep = history.of_sweep(place) if history is not None else None
        if sweep is not None and (sweep.folders or sweep.unfinished):
            answer.parent = answer.parent or place
            add(answer, sweep.folders, sweep.unfinished)
            continue
        folder = folder_of(place, question.uri)
        if folder is None:
            raise UserError(
                f"{place} is neither a run's folder nor a run or a sweep of "
                f"{store_uri(question.uri)}; set tracker.uri, or lmft runs lists those there are."
            )
        answer.folders.append(Path(folder))
    return answer


def add(answer: Answer, folders: list[str], unfinished: int) -> None:
    """Take in the runs of a sweep or an experiment; those that can't be compared get a note."""
    there = [Path(folder) for folder in folders if Path(folder).is_dir()]
    answer.folders += there
    for count, what in ((unfinished, "not finished"), (len(folders) - len(there), "lost a folder")):
        if count:
            answer.notes.append(f"Left out: {count} that {'have' if count > 1 else 'has'} {what}.")
