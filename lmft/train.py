"""The story of a run: from a config to a fine-tuned model and the numbers it reached."""

import logging
import math
import statistics
import time
from typing import Any

from torch.optim import Optimizer
from transformers import set_seed

from lmft.archive import held
from lmft.assessment import assess, score, windows_of
from lmft.card import Story, write_card
from lmft.config import RunConfig
from lmft.dataset import Split, open_splits
from lmft.errors import UserError
from lmft.evaluation import Scores
from lmft.identity import flatten
from lmft.materials import Materials, gather
from lmft.metrics import TokenLoss
from lmft.model import load_weights, save_model
from lmft.optimizer import build_optimizer
from lmft.outcome import Outcome
from lmft.provenance import find_origin
from lmft.result import write_sums
from lmft.runs import RunFolder, name_folder, start_folder, written_to
from lmft.samples import Sample, draw_samples
from lmft.terminal import Bars, Terminal
from lmft.tracker import Corpus, RunLog
from lmft.trainer import train

logger = logging.getLogger(__name__)


def run(
    config: RunConfig, values: dict[str, Any], composed: dict[str, str], terminal: Terminal
) -> float:
    """Fine-tune as `config` says; return the lowest validation loss, in nats per token.

    Args:
        config: the run.
        values: the same as plain values, to be logged.
        composed: Hydra's files about it, by name, to be kept.
        terminal: where a person looks on.

    Raises:
        UserError: something in the config can't be done.
        FloatingPointError: a loss is not finite.
    """
    started = time.perf_counter()
    splits = open_splits(config.dataset)
    if "train" not in splits:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    set_seed(config.seed)
    folder = name_folder(config, values, splits)
    materials = gather(config, splits)
    optimizer = build_optimizer(config.optimizer, materials.model)
    config.tracker.check()
    terminal.show_config(folder.path.name, values, materials.describe())
    start_folder(folder, composed)
    origin = find_origin(composed)
    with (
        held(folder.path),
        written_to(folder.log),
        config.tracker.start(
            folder.path.name,
            flatten(values),
            origin.tags | {"lmft.key": folder.key, "lmft.folder": str(folder.path)},
            Corpus(config.dataset.name, splits["train"].digest()),
        ) as log,
    ):
        log.text(composed["config.yaml"], "config.yaml")
        outcome = fine_tune(config, materials, optimizer, folder, log, terminal)
        assess_best(config, values, splits, materials, outcome, folder, log, terminal)
        seconds = time.perf_counter() - started
        result = outcome.as_dict(seconds)
        folder.write_json("result.json", result)
        made = (result, outcome.losses, outcome.samples)
        story = Story(config, values, origin, splits, materials, *made)
        write_card(story, folder, log)
    show_end(config, outcome, folder, seconds, terminal)
    return outcome.assessed["validation"].result.loss.mean


def fine_tune(
    config: RunConfig,
    materials: Materials,
    optimizer: Optimizer,
    folder: RunFolder,
    log: RunLog,
    terminal: Terminal,
) -> Outcome:
    """Train, with evaluations before, meanwhile and after; the best weights go to the folder."""
    model, trainer = materials.model, config.trainer
    batches = materials.batches["train"]
    per_epoch = batches.steps_per_epoch(trainer.batch_size)
    steps = trainer.steps(per_epoch)
    with terminal.progress(steps) as bars:

        def validate(step: int) -> Scores:
            scores = score_split("validation", config, materials, bars)
            show_loss("validation", step, scores.loss, log, terminal)
            return scores

        outcome = Outcome(baseline=validate(step=0).loss)
        outcome.losses = {"train": {}, "validation": {0: outcome.baseline.mean}}
        outcome.samples["before"] = show_samples("before", materials, log, terminal)
        for step in train(
            model,
            batches.training(trainer.batch_size, config.seed, trainer.shuffle),
            optimizer,
            materials.hardware,
            trainer,
            steps,
            config.seed,
        ):
            log.metrics(step.as_metrics(), step.number)
            outcome.tokens_per_second.append(step.tokens / step.seconds)
            outcome.losses["train"][step.number] = step.loss.mean
            bars.show_step(step)
            if step.number % (trainer.evaluate_every or per_epoch) and step.number < steps:
                continue
            if outcome.note(step.number, validate(step.number)):
                save_model(model, materials.tokenizer, folder.checkpoint)
            elif trainer.patience and outcome.since_best >= trainer.patience:
                terminal.say(f"No better validation loss in {trainer.patience} evaluations: done.")
                break
    return outcome


def assess_best(
    config: RunConfig,
    values: dict[str, Any],
    splits: dict[str, Split],
    materials: Materials,
    outcome: Outcome,
    folder: RunFolder,
    log: RunLog,
    terminal: Terminal,
) -> None:
    """Say what the best weights reach on validation and test, with labels and intervals."""
    if outcome.best_step < outcome.steps:
        load_weights(materials.model, folder.checkpoint)
    outcome.samples["after"] = show_samples("after", materials, log, terminal)
    assert outcome.best is not None
    scores = {"validation": outcome.best}
    if "test" in splits:
        with terminal.progress(0) as bars:
            scores["test"] = score_split("test", config, materials, bars)
        show_loss("test", outcome.best_step, scores["test"].loss, log, terminal)
    for name, some in scores.items():
        found = assess(splits[name], some, config, values, materials)
        outcome.assessed[name] = found
        logged = {f"{name}/{key}": value for key, value in found.result.as_metrics().items()}
        known = {f"{name}/{key}" for key in found.result.loss.as_dict()}
        log.metrics({k: v for k, v in logged.items() if k not in known}, outcome.best_step)
        log.tags({f"{name}/{key}": value for key, value in found.result.as_tags().items()})
        write_sums(folder.path, found)


def score_split(split: str, config: RunConfig, materials: Materials, bars: Bars) -> Scores:
    """The scores on a split, which must be finite."""
    with bars.evaluation(split, len(windows_of(split, config, materials))) as advance:
        scores = score(split, config, materials, advance=advance)
    if not math.isfinite(scores.loss.nats):
        raise FloatingPointError(f"The {split} loss is {scores.loss.nats}; lower optimizer.lr.")
    return scores


def show_loss(split: str, step: int, loss: TokenLoss, log: RunLog, terminal: Terminal) -> None:
    """One evaluation, to all who listen."""
    log.metrics({f"{split}/{name}": value for name, value in loss.as_dict().items()}, step)
    terminal.show_loss(step, split, loss)
    logger.info("step %d: %s loss %.6f", step, split, loss.mean)


def show_samples(when: str, materials: Materials, log: RunLog, terminal: Terminal) -> list[Sample]:
    """What the model makes of three validation texts, to the person and to the tracker."""
    samples = draw_samples(materials.model, materials.batches["validation"], materials.hardware)
    terminal.show_samples(f"{when} training", samples)
    text = "\n\n".join(f"{sample.prompt} → {sample.answer}" for sample in samples)
    log.text(text + "\n", f"samples_{when}.txt")
    return samples


def show_end(
    config: RunConfig, outcome: Outcome, folder: RunFolder, seconds: float, terminal: Terminal
) -> None:
    """The final table, the folder, and where to look further."""
    rows = [
        ("validation, before", 0, outcome.baseline),
        ("validation, last", outcome.steps, outcome.final),
    ]
    for name, found in outcome.assessed.items():
        rows.append((f"{name}, best", outcome.best_step, found.result.loss))
    terminal.show_results([(name, step, loss) for name, step, loss in rows if loss is not None])
    for found in outcome.assessed.values():
        terminal.say(found.result.label)
    speed = statistics.median(outcome.tokens_per_second)
    terminal.say(f"{seconds:,.0f} s, {speed:,.0f} tokens/s")
    terminal.say(f"Folder  {folder.path}")
    terminal.say(f"Look    {config.tracker.where()}")
