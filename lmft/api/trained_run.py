"""A run as an object: its numbers, its model, and what the verbs do with it."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmft.commands.arguments import check_knobs
from lmft.commands.isolation import as_library
from lmft.commands.words import check_words
from lmft.runs.find_run import check_checkpoint
from lmft.runs.run import RESULT
from lmft.runs.run import Run as BaseRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmft.evaluation.generation import Sampling


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
            tokenizer = self.tokenizer()
            return load_trained(self.checkpoint, config.model, config.objective, tokenizer)

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
            sampling = check_sampling(
                "generate", stop, tokens=tokens, temperature=temperature, top_p=top_p, seed=seed,
                top_k=top_k,
            )  # fmt: skip
            from lmft.commands.generate import generate

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
            sampling = check_sampling(
                "chat", stop, tokens=tokens, temperature=temperature, top_p=top_p, seed=seed,
                top_k=top_k,
            )  # fmt: skip
            from lmft.commands.chat import chat

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


def check_sampling(verb: str, stop: str, **numbers: Any) -> "Sampling":
    """Return the settings of a continuation, checked as the knobs of the verb are.

    Raises:
        UserError: a number is out of its range.
    """
    check_knobs(verb, **numbers)
    from lmft.evaluation.generation import Sampling

    return Sampling(**numbers, stop=stop)
