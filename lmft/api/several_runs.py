"""Sweeps and comparisons: calls on several runs, and what they return."""

import io
from contextlib import suppress
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING

from lmft.analysis.compare.frames import as_frames
from lmft.api.trained_run import Run
from lmft.commands.arguments import check_knobs
from lmft.commands.isolation import as_library
from lmft.commands.words import as_word, as_words, check_words
from lmft.metrics import VALIDATION_LOSS

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs on one split, and whether their differences are more than chance."""

    table: "DataFrame"  # a row for each run, best first
    pairs: "DataFrame"  # a row for each two runs: difference, 95 % interval, p-value
    text: str  # the report as the terminal shows it
    html: str  # the report as a page

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return str(self.table.to_html()) + str(self.pairs.to_html())


@dataclass(frozen=True, repr=False)
class Sweep:
    """The runs of a sweep over all launches, in the order of its jobs."""

    folder: Path  # of leaderboard, plots and comparison
    runs: list[Run]  # of the jobs that have not failed
    table: "DataFrame"  # a row for each job: its knobs, its state, its validation loss

    @property
    def best(self) -> Run | None:
        """The run with the lowest validation loss; None without one, or with several conditions."""
        finished = [run for run in self.runs if run.result]
        if len({run.result["validation"]["fingerprint"] for run in finished}) > 1:
            return None
        return min(finished, key=lambda run: run.result["validation"]["loss"], default=None)

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return str(self.table.to_html())


def multirun(
    *words: str,
    run_root: str | Path | None = None,
    cache_root: str | Path | None = None,
    **groups: str | list[str],
) -> Sweep:
    """Train a run for each combination of values separated by commas, as `lmft -m WORDS...` does.

    A job that fails is reported, and the others run; see `Sweep.table`.

    Args:
        words: as on the command line, such as "optimizer.lr=1e-4,1e-3".
        run_root: the parent of all run folders.
        cache_root: of tokenized corpora, trained tokenizers and losses before step 1.
        groups: choices of groups, as in model="gpt2_tiny" or model=["gpt2_tiny", "gpt2"].

    Raises:
        UserError: something in the words can't be done.
        KeyboardInterrupt: the same words resume the sweep.
    """
    swept = [
        f"{name}={choices if isinstance(choices, str) else ','.join(map(as_word, choices))}"
        for name, choices in groups.items()
    ]
    named = [*swept, *as_words({"run_root": run_root, "cache_root": cache_root})]
    with as_library():
        from pandas import DataFrame, to_numeric

        from lmft.commands.hydra_app import multirun as run_jobs

        sweep = run_jobs([*check_words(words), *named])
        knobs = list(dict.fromkeys(name for job in sweep.jobs for name in job.knobs))
        columns = ["job", *knobs, "state", VALIDATION_LOSS, "folder", "reason"]
        rows = [
            {**job.knobs, "job": job.number, "state": job.state, VALIDATION_LOSS: job.loss,
             "folder": job.folder, "reason": job.reason}
            for job in sweep.jobs
        ]  # fmt: skip
        table = DataFrame(rows, columns=columns).set_index("job").replace(inf, nan)
        for name in knobs:
            with suppress(ValueError):
                table[name] = to_numeric(table[name])
        runs = [Run(job.folder) for job in sweep.jobs if job.folder]
        return Sweep(sweep.folder, runs, table)


def compare(
    *runs: Run | Sweep | str | Path, split: str | None = None, tracker_uri: str | None = None
) -> Comparison:
    """Say which run is better, and whether that is more than chance.

    Args:
        runs: two or more, or their folders or MLflow ids; or a sweep, its folder or MLflow id.
        split: validation, test or train; None: validation if all runs have it, else test.
        tracker_uri: the MLflow store of the ids; None: mlflow.db in the working directory.

    Raises:
        UserError: the runs can't be compared.
    """
    each: list[Run | str | Path] = []
    for run in runs:
        each += [one for one in run.runs if one.result] if isinstance(run, Sweep) else [run]
    words = [str(run.folder if isinstance(run, Run) else run) for run in each]
    with as_library():
        if split is not None:
            check_knobs("compare", **{"evaluation.split": split})
        from lmft.analysis.compare.ranking import compare_runs
        from lmft.analysis.compare.report import report_files
        from lmft.analysis.compare.show import show
        from lmft.commands.compare import find_runs
        from lmft.output.terminal import Screen
        from lmft.tracker.mlflow_query import open_existing_store

        selection = find_runs(words, tracker_uri, open_existing_store(tracker_uri))
        comparison = compare_runs(selection.folders, split)
        file = io.StringIO()
        show(comparison, selection.notes, Screen(file=file, width=100))
        html = report_files(comparison, selection.notes, selection.name)["compare.html"]
        return Comparison(*as_frames(comparison), file.getvalue(), html)
