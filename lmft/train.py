"""The story of a run: from a config to a fine-tuned model and the numbers it reached."""

import logging
import math
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer
from transformers import set_seed

from lmft.config import RunConfig, flatten
from lmft.dataset import open_splits
from lmft.errors import UserError
from lmft.evaluation import evaluate
from lmft.materials import Materials, gather
from lmft.metrics import TokenLoss
from lmft.model import load_weights, save_model
from lmft.optimizer import build_optimizer
from lmft.provenance import describe_source
from lmft.runs import RunFolder, name_folder, start_folder, written_to
from lmft.samples import draw_samples
from lmft.terminal import Bars, Terminal
from lmft.tracker import Corpus, RunLog
from lmft.trainer import train

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a run reached so far."""

    baseline: TokenLoss  # validation before step 1
    best: TokenLoss | None = None  # the lowest validation after step 0
    best_step: int = 0
    final: TokenLoss | None = None  # the last validation
    steps: int = 0
    since_best: int = 0  # evaluations
    test: TokenLoss | None = None  # of the best
    tokens_per_second: list[float] = field(default_factory=list)

    def note(self, step: int, loss: TokenLoss) -> bool:
        """Take in a validation; returns whether it is the best so far."""
        self.final, self.steps = loss, step
        if self.best is not None and loss.mean >= self.best.mean:
            self.since_best += 1
            return False
        self.best, self.best_step, self.since_best = loss, step, 0
        return True


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
    terminal.show_config(folder.path.name, values, describe(materials))
    start_folder(folder, composed)
    command = " ".join(["lmft", *sys.argv[1:]])
    with (
        written_to(folder.log),
        config.tracker.start(
            folder.path.name,
            flatten(values),
            describe_source(command) | {"lmft.key": folder.key, "lmft.folder": str(folder.path)},
            Corpus(config.dataset.name, splits["train"].digest()),
        ) as log,
    ):
        log.text(composed["config.yaml"], "config.yaml")
        outcome = fine_tune(config, materials, optimizer, folder, log, terminal)
        seconds = time.perf_counter() - started
        folder.write_json("result.json", as_result(outcome, seconds))
    show_end(config, outcome, folder, seconds, terminal)
    assert outcome.best is not None
    return outcome.best.mean


def fine_tune(
    config: RunConfig,
    materials: Materials,
    optimizer: Optimizer,
    folder: RunFolder,
    log: RunLog,
    terminal: Terminal,
) -> Outcome:
    """Train, evaluate before, meanwhile and after, and keep the best weights in the folder."""
    model, hardware, trainer = materials.model, materials.hardware, config.trainer
    batches = materials.batches["train"]
    per_epoch = batches.steps_per_epoch(trainer.batch_size)
    steps = trainer.steps(per_epoch)

    with terminal.progress(steps) as bars:

        def score(split: str, step: int) -> TokenLoss:
            loss = evaluate_split(split, config, materials, bars)
            log.metrics({f"{split}/{name}": value for name, value in loss.as_dict().items()}, step)
            terminal.show_loss(step, split, loss)
            logger.info("step %d: %s loss %.6f", step, split, loss.mean)
            return loss

        outcome = Outcome(baseline=score("validation", step=0))
        show_samples("before", materials, log, terminal)
        for step in train(
            model,
            batches.training(trainer.batch_size, config.seed, trainer.shuffle),
            optimizer,
            hardware,
            trainer,
            steps,
            config.seed,
        ):
            log.metrics(step.as_metrics(), step.number)
            outcome.tokens_per_second.append(step.tokens / step.seconds)
            bars.show_step(step)
            if step.number % (trainer.evaluate_every or per_epoch) and step.number < steps:
                continue
            if outcome.note(step.number, score("validation", step.number)):
                save_model(model, materials.tokenizer, folder.checkpoint)
            elif trainer.patience and outcome.since_best >= trainer.patience:
                terminal.say(f"No better validation loss in {trainer.patience} evaluations: done.")
                break

        if outcome.best_step < outcome.steps:
            load_weights(model, folder.checkpoint)
        show_samples("after", materials, log, terminal)
        if "test" in materials.batches:
            outcome.test = score("test", outcome.best_step)
    return outcome


def evaluate_split(split: str, config: RunConfig, materials: Materials, bars: Bars) -> TokenLoss:
    """The loss on a split, which must be finite."""
    batches, limit = materials.batches[split], config.evaluation.max_blocks
    with bars.evaluation(split, min(len(batches), limit or len(batches))) as advance:
        loss = evaluate(materials.model, batches, materials.hardware, limit, advance)
    if not math.isfinite(loss.nats):
        raise FloatingPointError(f"The {split} loss is {loss.nats}; lower optimizer.lr.")
    return loss


def show_samples(when: str, materials: Materials, log: RunLog, terminal: Terminal) -> None:
    """What the model makes of three validation texts, to the person and to the tracker."""
    samples = draw_samples(materials.model, materials.batches["validation"], materials.hardware)
    terminal.show_samples(f"{when} training", samples)
    text = "\n\n".join(f"{sample.prompt} → {sample.answer}" for sample in samples)
    log.text(text + "\n", f"samples_{when}.txt")


def describe(materials: Materials) -> dict[str, str]:
    """What the choices came to, for a person."""
    streams = {name: some.blocks.stream for name, some in materials.batches.items()}
    sizes = ", ".join(
        f"{name} {len(stream.ids):,} tokens in {len(stream.ends):,} documents"
        for name, stream in streams.items()
    )
    weights = sum(weight.numel() for weight in materials.model.parameters())
    return {
        "dataset": sizes,
        "model": f"{weights:,} weights, {len(materials.tokenizer):,} tokens",
        "hardware": materials.hardware.describe(),
    }


def as_result(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """What result.json holds; all that a clock or a memory meter measured is under `timing`."""
    losses = {
        "baseline": outcome.baseline,
        "validation": outcome.best,
        "test": outcome.test,
        "final": outcome.final,
    }
    return {name: loss and loss.as_dict() for name, loss in losses.items()} | {
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "timing": {
            "seconds": seconds,
            "tokens_per_second": statistics.median(outcome.tokens_per_second),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }


def show_end(
    config: RunConfig, outcome: Outcome, folder: RunFolder, seconds: float, terminal: Terminal
) -> None:
    """The final table, the folder, and where to look further."""
    rows = [
        ("validation, before", 0, outcome.baseline),
        ("validation, best", outcome.best_step, outcome.best),
        ("validation, last", outcome.steps, outcome.final),
        ("test, best", outcome.best_step, outcome.test),
    ]
    terminal.show_results([(name, step, loss) for name, step, loss in rows if loss is not None])
    speed = statistics.median(outcome.tokens_per_second)
    terminal.say(f"{seconds:,.0f} s, {speed:,.0f} tokens/s")
    terminal.say(f"Folder  {folder.path}")
    terminal.say(f"Look    {config.tracker.where()}")
