"""`lmft evaluate`: score a finished run's best weights, or any model as it is."""

from argparse import Namespace
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from lmft.config.compose import compose, compose_run
from lmft.config.knobs import flatten
from lmft.dataset.split import Split
from lmft.errors import UserError
from lmft.evaluation.scoring import Scores, score
from lmft.evaluation.sums import Assessment, write_sums
from lmft.evaluation.windows import windows_of
from lmft.evaluation.windows_at_once import windows_at_once
from lmft.metrics import of_split
from lmft.output.terminal import Terminal
from lmft.runs.provenance import describe_source
from lmft.runs.run import RESULT, Run, describe_corpus, run_with_weights
from lmft.runs.run_id import key_inputs, model_label
from lmft.storage.hashing import digest
from lmft.storage.hub import content_digest
from lmft.storage.lock import run_lock
from lmft.tracker.run_log import Facts, Record, read_facts
from lmft.trainer.components import Components, build_components
from lmft.trainer.evaluate import assess, find_conditions
from lmft.trainer.run_tokenizer import find_tokenizer

EVALUATION = {"lmft.kind": "evaluation"}  # the tag of a run that trained nothing
RESULTS = "evaluations.json"  # in the run's folder: every result, by a hash of what it depends on


def main(arguments: Namespace) -> None:
    """Run the command."""
    evaluate(arguments.run, arguments.words, Terminal())


class UntrainedModel(Run):
    """A model that is scored as it is: its key has no trainer, and only the split scored."""

    @cached_property
    def key(self) -> str:
        """The key of a folder for its evaluations."""
        split = choose_split(self)
        values = {**self.values, "trainer": {}}
        return digest(key_inputs(self.config.model, values, {split.name: split}))


def evaluate(name: str | None, words: list[str], terminal: Terminal) -> dict[str, Any]:
    """Score one split, keep the result beside the run and in MLflow, and return it.

    A stored result of the same weights under the same conditions is only printed. Unless the words
    set them, the precision is fp32, and as many windows are scored at once as fit a fixed budget.

    Args:
        name: the folder or MLflow id of the run whose best weights are scored; None: the model
            that the words name.
        words: overrides, as on the command line.
        terminal: where results are printed.

    Raises:
        UserError: something in the config can't be done.
    """
    if not sets("hardware.precision", words):
        words = [*words, "hardware.precision=fp32"]
    run = UntrainedModel(*compose_run(words)) if name is None else run_with_weights(name, words)
    if run.config.model.from_scratch:
        raise UserError("lmft evaluate needs trained weights; add run=FOLDER, or model=gpt2.")
    split, tokenizer = choose_split(run), find_tokenizer(run.config, {})
    draws = run.config.evaluation.mask_draws
    fingerprint = find_conditions(run, split, tokenizer, draws).fingerprint
    weights = content_digest(str(run.config.model.name), run.config.model.revision)
    wanted = (fingerprint, str(run.values["hardware"]["precision"]))
    key = digest([weights, *wanted])[:16]
    stored = run.read_json(RESULTS)
    trained = run.read_json(RESULT).get(split.name) or {}
    for result in (stored.get(key, {}), trained):
        if (result.get("fingerprint"), result.get("precision")) == wanted:
            terminal.show_evaluation(result, is_known=True)
            return dict(result)
    components = build_components(run.config, {split.name: split}, tokenizer=tokenizer)
    if not sets("hardware.micro_batch_size", words):
        components = with_windows_that_fit(run, components)
    run.tracker.check()
    changes = describe_changes(split, run, usual_dataset(name, run, words))
    assessed, spread = score_draws(run, split, components, terminal, changes)
    result = assessed.result.as_dict() | spread
    run.create_folder()
    write_sums(run.folder, assessed)
    run.write_json(RESULTS, stored | {key: result})
    track(run, split, assessed, spread)
    terminal.show_evaluation(result)
    return result


def sets(knob: str, words: list[str]) -> bool:
    """Return whether one of the overrides sets the knob."""
    return any(word.lstrip("+").startswith(f"{knob}=") for word in words)


def with_windows_that_fit(run: Run, components: Components) -> Components:
    """Return the components with a micro-batch size for scoring: the one for training is smaller.

    A single process halves it if memory runs out.
    """
    context = run.config.evaluation.context or run.config.dataset.block_size
    hardware = components.hardware
    size = max(hardware.micro_batch_size, windows_at_once(components.network, context))
    halve = hardware.process_group.size == 1
    hardware = replace(hardware, micro_batch_size=size, auto_micro_batch_size=halve)
    return replace(components, hardware=hardware)


def choose_split(run: Run) -> Split:
    """Return the split to score: the one named, else test, else validation; no other is read.

    Raises:
        UserError: the dataset does not have it.
    """
    wanted = run.config.evaluation.split
    candidates = ("test", "validation", "train") if wanted is None else (wanted,)
    name = next((name for name in candidates if name in run.splits), None)
    if name is None:
        raise UserError(
            f"dataset.{candidates[0]} has no value; set it, or choose another evaluation.split."
        )
    return run.splits[name]


# Knobs of `dataset` that change the text, or where documents end, in the order of the label.
TEXT_KNOBS = (
    "text_column", "delimiter", "document", "errors", "kind", "learn", "chat_template",
    "prompt_template",
)  # fmt: skip


def usual_dataset(name: str | None, run: Run, words: list[str]) -> dict[str, Any]:
    """Return the knobs of the text that the dataset's name stands for.

    They are those that the run was trained with; for a model without a run, or where the words
    choose another dataset, those of the dataset as it is chosen.
    """
    if name is not None and not any(word.startswith("dataset=") for word in words):
        return dict(Run(folder=run.folder).values["dataset"])
    chosen = [word for word in words if not word.startswith("dataset.")]
    return dict(Run(compose(chosen)).values["dataset"])


def describe_changes(split: Split, run: Run, usual: dict[str, Any]) -> tuple[str, ...]:
    """Return in words how the text of a split differs from the `usual` one: file, column and so on.

    Without this, one label would stand for two texts.
    """
    dataset: dict[str, Any] = run.values["dataset"]
    place = split.name if split.held_out is None else "train"
    changes = [split.short_name()] if dataset[place] != usual[place] else []
    knobs = [*TEXT_KNOBS, *(["validation_fraction"] if split.held_out is not None else [])]
    changes += [f"{knob} {dataset[knob]}" for knob in knobs if dataset[knob] != usual[knob]]
    return tuple(changes)


def score_draws(
    run: Run, split: Split, components: Components, terminal: Terminal, changes: tuple[str, ...]
) -> tuple[Assessment, dict[str, float]]:
    """Return the assessment over all draws of masks, and how much the loss differs between them."""
    config, batches = run.config, components.batches[split.name]
    one_draw = config.objective.is_causal or config.evaluation.pseudo
    draws = 1 if one_draw else config.evaluation.mask_draws
    windows = windows_of(batches, config.evaluation)
    with (
        terminal.progress(0) as bars,
        bars.evaluation(split.name, len(windows) * draws) as advance,
    ):
        scores = [
            score(
                components.network,
                batches,
                components.hardware,
                replace(windows, draw=draw),
                advance,
            )
            for draw in range(draws)
        ]
    all_draws = Scores(
        *(np.concatenate([getattr(s, name) for s in scores]) for name in vars(scores[0]))
    )
    assessed = assess(run, components, split, all_draws, draws, changes)
    if draws == 1:
        return assessed, {}
    losses = [draw.loss.mean for draw in scores]
    return assessed, {"mask_draws": float(draws), "loss_deviation": float(np.std(losses, ddof=1))}


def is_own(run: Run, result: dict[str, Any]) -> bool:
    """Return whether the run scored this split in the same way, or is itself only an evaluation."""
    trained = run.read_json(RESULT)
    if not trained:
        return True
    own = trained.get(result["conditions"]["split"]) or {}
    return all(own.get(name) == result[name] for name in ("fingerprint", "precision"))


def track(run: Run, split: Split, assessed: Assessment, spread: dict[str, float]) -> None:
    """Log to the run that trained the weights, at their step; else to a run of its own."""
    name, result = split.name, assessed.result
    if not is_own(run, result.as_dict()):
        name = f"{run.config.dataset.name}-{result.conditions.fingerprint[:8]}/{name}"
    tags = {f"{name}/{key}": value for key, value in result.as_tags().items()}
    step = int(run.read_json(RESULT).get("best_step", 0))
    with run_lock(run.folder, wait=True), closing(Record(run.folder)) as record:
        if not read_facts(run.folder):
            title = f"evaluate {model_label(run.config.model)} on {split.corpus} {split.name}"
            facts = Facts(title, run.key, flatten(run.values), [], result.precision)
            tags_of_run = {"lmft.key": run.key, "lmft.folder": str(run.folder)} | EVALUATION
            record.start(facts, describe_source("lmft evaluate") | tags_of_run)
        record.add_corpus(describe_corpus(split))
        with run.tracker.update_run(record) as log:
            log.log_metrics(of_split(name, result.as_metrics() | spread), step)
            log.set_tags(tags)
