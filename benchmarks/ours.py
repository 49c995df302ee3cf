"""The process that runs lmft, step by step, from command-line overrides.

Only this module and tokenizing.py call lmft's code to measure it. Heavy imports wait until
`prepare` has set up the process, as in the `lmft` command.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.turns import Job, Turns
from lmft.commands.console import prepare

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
    return words if job.dropout else [*words, "model.dropout=0"]


def main() -> None:
    """Train or evaluate, depending on the job."""
    turns = Turns()
    prepare()
    (evaluate if turns.job.evaluates else train)(turns)


def train(turns: Turns) -> None:
    """Train; a turn is an optimizer step and, if the run is tracked, logging its metrics."""
    with open_run(words_of(turns.job)) as session:
        save_blocks(session.components, "train", turns.job)
        turns.begin(**size_of(session.components))
        session.engine.start(None, 0, None)
        for _ in range(turns.job.turns):
            step = session.engine.step()
            before = time.perf_counter()
            session.log.log_metrics(step.as_metrics(), step.number)
            turns.done(loss=step.loss.mean, tracking=time.perf_counter() - before)


def evaluate(turns: Turns) -> None:
    """Evaluate randomly initialized weights; a turn is a batch of windows."""
    from lmft.config.build import read_config
    from lmft.config.compose import compose
    from lmft.dataset.splits import open_splits
    from lmft.trainer.components import build_components
    from lmft.trainer.evaluate import score

    config, _ = read_config(compose(words_of(turns.job)))
    components = build_components(config, open_splits(config.dataset, only=("validation",)))
    save_blocks(components, "validation", turns.job)
    turns.begin(**size_of(components))
    score("validation", config, components, advance=lambda windows: turns.done())


@contextmanager
def open_run(words: list[str]) -> Iterator["Session"]:
    """Open the run that `lmft WORDS...` starts, ready for its first step."""
    from omegaconf import OmegaConf

    from lmft.config.build import read_config
    from lmft.config.compose import compose
    from lmft.dataset.splits import open_splits
    from lmft.output.terminal import Terminal
    from lmft.runs.run_id import name_folder
    from lmft.trainer.run import open_session

    composed = compose(words)
    config, values = read_config(composed)
    files = {
        "config.yaml": OmegaConf.to_yaml(composed),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(words)),
    }
    splits = open_splits(config.dataset)
    folder = name_folder(config, values, splits)
    made: Any = (files, splits, folder, Terminal(brief=True), None, time.monotonic())
    with open_session(config, values, *made) as session:
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
