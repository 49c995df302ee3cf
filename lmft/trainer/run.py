"""The story of a run: from a config to a fine-tuned model and the numbers it reached."""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lmft.config.knobs import flatten
from lmft.config.schema import RunConfig
from lmft.dataset.splits import Split, open_splits, warn_of_overlap
from lmft.errors import StoreUnavailable, UserError
from lmft.evaluation.result import write_sums
from lmft.hardware.process_group import join, worker_failures_raised
from lmft.output.run_logging import log_to_file
from lmft.output.terminal import Terminal
from lmft.runs.finished import Job, answer, show_result
from lmft.runs.provenance import find_origin
from lmft.runs.run_dir import RunFolder, create_run_folder, set_aside
from lmft.runs.run_id import name_folder
from lmft.storage.atomic import new_folder
from lmft.storage.checksums import CHECKSUMS
from lmft.storage.lock import run_lock
from lmft.tracker.run_log import Facts, Record, read_facts
from lmft.trainer.components import build_components, warn_of_remote_code
from lmft.trainer.engine import Engine
from lmft.trainer.evaluate import assess
from lmft.trainer.loop import SCORES, Prune, fine_tune, read_best_scores
from lmft.trainer.model_card import CardFacts, write_card
from lmft.trainer.progress import Outcome, Progress
from lmft.trainer.session import Session, read_samples, score_split, show_loss, show_samples


def run(
    config: RunConfig,
    values: dict[str, Any],
    composed: dict[str, str],
    terminal: Terminal,
    job: Job | None = None,
    prune: Prune = lambda step, folder: False,
) -> RunFolder:
    """Fine-tune as `config` says, or go on with it; returns the run's folder.

    A run that has finished only shows its result.

    Args:
        config: the run.
        values: the same as plain values, to be logged.
        composed: Hydra's files about it, by name, to be kept.
        terminal: where a person looks on.
        job: the sweep that it is part of; it waits for another process at the same run.
        prune: whether the run is not worth going on with, asked after each validation.

    Raises:
        UserError: something in the config can't be done.
        Busy: another process is at the same run.
        FloatingPointError: a loss is not finite.
        Stopped: by a signal; the same command goes on from there.
    """
    started = time.monotonic()
    splits = open_splits(config.dataset)
    if "train" not in splits:
        raise UserError("dataset.train has no value; set it to a file, a folder or a glob.")
    folder = name_folder(config, values, splits)
    with run_lock(folder.path, wait=job is not None):
        finished = (folder.path / "result.json").exists() and not config.fresh
        if not finished:
            with open_session(
                config, values, composed, splits, folder, terminal, job, started
            ) as session:
                progress, over = fine_tune(session, prune)
                if not over:
                    session.log.tags({"pruned_at": str(progress.step)})
                    terminal.say(f"Pruned at step {progress.step:,}.")
                    return folder
                result = conclude(session, progress)
    if finished:
        answer(folder, config.tracker, terminal, job)
    else:
        show_result(result, folder, config.tracker, terminal)
    return folder


@contextmanager
def open_session(
    config: RunConfig,
    values: dict[str, Any],
    composed: dict[str, str],
    splits: dict[str, Split],
    folder: RunFolder,
    terminal: Terminal,
    job: Job | None,
    started: float,
) -> Iterator[Session]:
    """Everything made ready and checked before the folder is touched; then the run is open."""
    warn_of_overlap(splits)
    kept = {} if config.fresh else read_facts(folder.path)
    join().tell("open", config=composed["config.yaml"], precision=kept.get("precision"))
    with worker_failures_raised():
        components = build_components(config, splits, kept.get("precision"))
        engine = Engine(config, components)
    check_tracker(config, anew=not kept and (job is None or job.parent is None))
    terminal.show_config(folder.path.name, values, components.describe())
    if config.fresh and folder.path.exists():
        set_aside_old(folder, config, terminal)
    create_run_folder(folder, composed)
    with log_to_file(folder.log), closing(Record(folder.path)) as record:
        if config.model.trust_remote_code:
            warn_of_remote_code(str(config.model.name))
        origin = find_origin(composed)
        record.start(
            describe(folder, config, values, splits, job, components.hardware.precision.value),
            origin.tags | {"lmft.key": folder.key, "lmft.folder": str(folder.path)},
        )
        place = None if job is None or job.parent is None else (job.parent, job.name)
        with config.tracker.follow(record, place) as log, worker_failures_raised():
            # fmt: off
            yield Session(
                config, values, splits, engine, folder, log, origin, terminal, started
            )


def check_tracker(config: RunConfig, anew: bool) -> None:
    """A run that begins anew needs a store that answers; later, its folder can wait for one.

    So can a job, since its sweep has begun there.

    Raises:
        UserError: the tracker's settings are wrong, or its store does not answer.
    """
    try:
        config.tracker.check()
    except StoreUnavailable:
        if anew:
            raise


def describe(
    folder: RunFolder,
    config: RunConfig,
    values: dict[str, Any],
    splits: dict[str, Split],
    job: Job | None,
    precision: str,
) -> Facts:
    """What is known of the run when it first starts."""
    name = folder.path.name if job is None else job.name
    corpus = config.dataset.name, splits["train"].digest()
    return Facts(name, folder.key, flatten(values), *corpus, precision)


def set_aside_old(folder: RunFolder, config: RunConfig, terminal: Terminal) -> None:
    """Make room for a fresh start; what was there stays, under another name."""
    place = set_aside(folder.path)
    with closing(Record(place)) as record:
        record.tags({"superseded": "true", "lmft.folder": str(place)})
    config.tracker.move(str(folder.path), str(place))
    terminal.say(f"The run that was there is now {place.name}.")


def conclude(session: Session, progress: Progress) -> dict[str, Any]:
    """Put the best weights in their place, say what they reach, and call the run finished."""
    folder = session.folder
    session.checkpoints.check_best(progress.best_step)
    best = session.checkpoints.best(progress.best_step)
    if progress.best_step < progress.step:
        session.engine.read_weights(str(best))
    show_samples("after", session)
    outcome = assess_best(session, progress)
    with new_folder(folder.checkpoint) as place:
        copy_model(best, place)
    result = outcome.as_dict(folder.path, session.seconds(progress))
    told = (session.config, session.values, session.origin, session.splits, session.components)
    write_card(CardFacts(*told, result, read_samples(session)), folder, session.log)
    folder.write_json("result.json", result)  # from here on the run has finished
    session.checkpoints.drop()
    return result


def assess_best(session: Session, progress: Progress) -> Outcome:
    """What the best weights reach on validation and test, with labels and intervals."""
    outcome = Outcome(progress)
    scores = {"validation": read_best_scores(session, progress)}
    if "test" in session.splits:
        with session.terminal.progress(0) as bars:
            scores["test"] = score_split("test", session, bars)
        show_loss("test", progress.best_step, scores["test"].loss, session)
    for name, some in scores.items():
        found = assess(
            session.splits[name], some, session.config, session.values, session.components
        )
        outcome.assessed[name] = found
        metrics = {f"{name}/{key}": value for key, value in found.result.as_metrics().items()}
        session.log.metrics(metrics, progress.best_step)
        session.log.tags({f"{name}/{key}": v for key, v in found.result.as_tags().items()})
        write_sums(session.folder.path, found)
    return outcome


def copy_model(source: Path, place: Path) -> None:
    """The Hugging Face folder, without what was kept beside it for going on."""
    for file in source.iterdir():
        if file.name not in (SCORES, CHECKSUMS):
            shutil.copyfile(file, place / file.name)
