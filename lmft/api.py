"""The Python API: train, load, compare and sweep from a notebook or a program.

Everything takes the command line's words and answers with its sentences, as exceptions. A call
leaves nothing behind in the process but the run's folder.
"""

import io
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmft.analysis.compare.frames import as_frames
from lmft.commands.arguments import check_knobs
from lmft.commands.isolation import as_library
from lmft.commands.words import as_word, as_words, check_words
from lmft.metrics import VALIDATION_LOSS
from lmft.runs.find_run import check_checkpoint, find_folder
from lmft.runs.run import RESULT
from lmft.runs.run import Run as BaseRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmft.config.schema import RunConfig


class Run(BaseRun):
    """A run: `lmft.train` returns it, `lmft.load` finds it. In a notebook it shows itself.

    Besides its `folder` it has its `config`, as real objects, and its `values`, as plain ones.
    """

    def __init__(self, folder: str | Path):
        """Name a run by its folder, which must exist."""
        super().__init__(folder=Path(folder).expanduser().absolute())

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json; empty if the run has not finished."""
        return self.read_json(RESULT)

    @property
    def metrics(self) -> "DataFrame":
        """All metrics: a row for each optimizer step that has any, a column for each name."""
        from pandas import DataFrame

        from lmft.tracker.run_log import read_points

        rows: dict[int, dict[str, float]] = {}
        for points in read_points(self.folder):
            rows.setdefault(points.step, {}).update(points.metrics)
        frame = DataFrame.from_dict(rows, orient="index").sort_index()
        return frame.rename_axis("step")

    def model(self) -> "PreTrainedModel":
        """Load the best weights with transformers; of an adapter, with its base.

        Raises:
            UserError: the run has not finished.
        """
        with as_library():
            check_checkpoint(self.folder)
            from lmft.model.load import load_trained

            config = self.config
            return load_trained(self.checkpoint, config.objective, config.model.trust_remote_code)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer with transformers.

        Raises:
            UserError: the run has not finished.
        """
        with as_library():
            check_checkpoint(self.folder)
            from transformers import AutoTokenizer

            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.checkpoint, trust_remote_code=self.values["model"]["trust_remote_code"]
            )
            return tokenizer

    def generate(
        self,
        prompt: str = "",
        tokens: int = 50,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
        top_k: int = 0,
        stop: str = "",
    ) -> str:
        """Return the prompt and the model's continuation; of a masked model, its guesses.

        Args:
            prompt: the text to continue; of a masked model, with mask tokens to fill.
            tokens: new ones, at most.
            temperature: 0 takes the likeliest token.
            top_p: probability mass to sample from (Holtzman et al. 2020).
            seed: of the sampling.
            top_k: sample from so many of the likeliest tokens; 0: from all.
            stop: the continuation ends before this text.

        Raises:
            UserError: the prompt can't be continued, or a number is out of its range.
        """
        with as_library():
            numbers = {"tokens": tokens, "temperature": temperature, "top_p": top_p}
            check_knobs("generate", **numbers, seed=seed, top_k=top_k)
            from lmft.commands.generate import generate
            from lmft.evaluation.generation import Sampling

            sampling = Sampling(tokens, temperature, top_p, seed, top_k, stop)
            return generate(str(self.folder), [], prompt, sampling)[0]

    def chat(
        self,
        messages: str | list[dict[str, str]],
        tokens: int = 256,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
        top_k: int = 0,
        stop: str = "",
    ) -> str:
        """Return what the model answers, with its chat template if it has one.

        Args:
            messages: what the user says; or a conversation, a list of messages with `role`
                (system, user, assistant) and `content`.
            tokens: of the answer, at most.
            temperature: 0 takes the likeliest token.
            top_p: probability mass to sample from (Holtzman et al. 2020).
            seed: of the sampling.
            top_k: sample from so many of the likeliest tokens; 0: from all.
            stop: the answer ends before this text.

        Raises:
            UserError: the model can't answer, or a number is out of its range.
        """
        with as_library():
            numbers = {"tokens": tokens, "temperature": temperature, "top_p": top_p}
            check_knobs("chat", **numbers, seed=seed, top_k=top_k)
            from lmft.commands.chat import chat
            from lmft.evaluation.generation import Sampling

            sampling = Sampling(tokens, temperature, top_p, seed, top_k, stop)
            return chat(str(self.folder), messages, sampling)

    def merge(self, out: str | Path | None = None) -> Path:
        """Write the base with the adapter in it as an ordinary model; return its folder.

        Args:
            out: the folder; None: `merged` in that of the run.

        Raises:
            UserError: the run trained no adapter, or the folder exists.
        """
        with as_library():
            from lmft.commands.merge import merge

            return merge(str(self.folder), None if out is None else str(out))

    def evaluate(self, *words: str) -> dict[str, Any]:
        """Score a split with the best weights; return loss, perplexity, interval and more.

        Args:
            words: as of `lmft evaluate`, such as "evaluation.stride=64".

        Raises:
            UserError: a word can't be used.
        """
        with as_library():
            from lmft.commands.evaluate import evaluate
            from lmft.output.terminal import Terminal

            return evaluate(str(self.folder), check_words(words), Terminal())

    def push(
        self,
        repo: str,
        private: bool = False,
        dry_run: bool = False,
        license: str | None = None,
        language: str | None = None,
        samples: bool = False,
    ) -> str:
        """Publish the best weights on the Hugging Face Hub, after `lmft.login()`; return the URL.

        Args:
            repo: owner/name; it is created if it is missing.
            private: whether a new repository is.
            dry_run: only show what would be sent.
            license: for the card, such as "apache-2.0".
            language: for the card, such as "en".
            samples: whether the card shows excerpts of validation texts.

        Raises:
            UserError: the hub can't be reached or refuses it.
        """
        with as_library():
            from lmft.commands.push import push
            from lmft.runs.publication import CardOptions

            options = CardOptions(license, language, samples)
            return push(str(self.folder), repo, options, private, dry_run)

    def plot(self) -> "Figure":
        """Draw training and validation loss by step; no display is needed."""
        from lmft.runs.curve import loss_figure

        return loss_figure(self.folder, self.result.get("best_step"))

    def __repr__(self) -> str:
        return f"lmft.load({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return the losses as a small table with the curve."""
        from lmft.output.plots import as_svg_element

        splits = {name: self.result.get(name) for name in ("validation", "test")}
        rows = [
            f"<tr><th>{name}</th><td>{found['loss']:.4f}</td><td>{found['perplexity']:,.2f}</td>"
            f"<td>{found['targets']:,}</td></tr>"
            for name, found in splits.items()
            if found
        ]
        head = "<tr><th></th><th>loss</th><th>perplexity</th><th>targets</th></tr>"
        table = f"<table>{head}{''.join(rows)}</table>" if rows else "<p>not finished</p>"
        return f"<b>{escape(self.folder.name)}</b>{table}{as_svg_element(self.plot())}"


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


def compose(*words: str, **groups: str) -> "RunConfig":
    """Return the config that `lmft WORDS...` would train on; nothing is loaded or written.

    Args:
        words: GROUP=CHOICE, KNOB=VALUE or --config-dir=DIR, as on the command line.
        groups: choices of groups, as in experiment="mine".

    Raises:
        UserError: something in the words can't be done.
    """
    with as_library():
        from lmft.config.compose import compose as compose_words

        return BaseRun(compose_words([*check_words(words), *as_words(groups)])).config


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
