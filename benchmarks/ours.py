"""The process that runs lmft, step by step, from command-line overrides.

Only this module and tokenizing.py call lmft's code to measure it. Heavy imports wait until
`set_up_process` has set up the process, as in the `lmft` command.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.turns import Job, Turns
from lmft.commands.console import prepare as set_up_process

if TYPE_CHECKING:
    from lmft.trainer.components import Components
    from lmft.trainer.session import Session

SHARED = Path(os.environ.get("LMFT_SHARED", Path(__file__).parents[1] / "shared")).absolute()
TEXT = SHARED / "data" / "wikitext-2"


def words_of(job: Job) -> list[str]:
    """Return the command-line overrides of the job."""
    words = [
        "model=pretrained", f"model.name={job.model}", f"model.from_scratch={job.scratch}",
        f"objective={job.objective}", "dataset=text_files", f"dataset.train={TEXT / 'train.txt'}",
        f"dataset.validation={TEXT / 'valid.txt'}", "dataset.separator=none",
        f"dataset.block_size={job.block}", f"trainer.batch_size={job.batch}",
        f"hardware.micro_batch_size={job.batch}", f"hardware.precision={job.precision}",
        f"hardware.compile={job.compiled}", f"trainer.max_steps={job.turns}",
        "trainer.shuffle=false", "optimizer.lr=2e-5", f"run_root={job.folder}/runs",
        f"evaluation.max_blocks={job.turns * job.batch}",
        *(["tracker=mlflow", f"tracker.uri=sqlite:///{job.folder}/mlflow.db"]
          if job.tracked else ["tracker=none"]),
    ]  # fmt: skip
    if job.rank:
        words += ["adapter=lora", f"adapter.rank={job.rank}"]
    return words if job.dropout else [*words, "model.dropout=0"]


def main() -> None:
    """Train or evaluate, depending on the job."""
    turns = Turns()
    set_up_process()
    (evaluate if turns.job.evaluates else train)(turns)


def train(turns: Turns) -> None:
    """Train; a turn is an optimizer step and, if the run is tracked, logging its metrics."""
    from lmft.trainer.step import training_steps

    with open_run(words_of(turns.job)) as session:
        save_blocks(session.components, "train", turns.job)
        turns.begin(**size_of(session.components))
        for step in training_steps(session.training):
            before = time.perf_counter()
            session.log.log_metrics(step.as_metrics(), step.number)
            turns.done(loss=step.loss.mean, tracking=time.perf_counter() - before)


def evaluate(turns: Turns) -> None:
    """Evaluate randomly initialized weights; a turn is a batch of windows."""
    from lmft.config.compose import compose
    from lmft.evaluation.scoring import score
    from lmft.evaluation.windows import windows_of
    from lmft.runs.run import Run
    from lmft.trainer.components import build_components

    run = Run(compose(words_of(turns.job)))
    components = build_components(run.config, {"validation": run.splits["validation"]})
    save_blocks(components, "validation", turns.job)
    turns.begin(**size_of(components))
    batches = components.batches["validation"]
    windows = windows_of(batches, run.config.evaluation)
    network, hardware = components.network, components.hardware
    score(network, batches, hardware, windows, advance=lambda count: turns.done())


@contextmanager
def open_run(words: list[str]) -> Iterator["Session"]:
    """Open the run that `lmft WORDS...` starts, ready for its first step."""
    from omegaconf import OmegaConf

    from lmft.config.compose import compose
    from lmft.output.terminal import Terminal
    from lmft.runs.run import Run
    from lmft.trainer.train import build_on_all_ranks, open_folder, open_session

    composed = compose(words)
    files = {
        "config.yaml": OmegaConf.to_yaml(composed),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(words)),
    }
    run, terminal = Run(composed, files), Terminal(brief=True)
    training, _ = build_on_all_ranks(run)
    open_folder(run, terminal)
    with open_session(run, training, terminal, None, time.monotonic()) as session:
        yield session


def save_blocks(components: "Components", split: str, job: Job) -> None:
    """Save the blocks that the turns read, so that the peer reads the same ones."""
    numbers = np.arange(job.turns * job.batch)
    np.save(job.blocks, components.batches[split].blocks.read(numbers).numpy())


def size_of(components: "Components") -> dict[str, float]:
    """Return the model sizes that determine the FLOPs of a step."""
    model = components.network.model
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "layers": model.config.num_hidden_layers,
        "hidden": model.config.hidden_size,
    }


if __name__ == "__main__":
    main()
