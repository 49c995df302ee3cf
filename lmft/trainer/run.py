"""Run a config: from the config to a fine-tuned model and its result."""

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
from lmft.hardware.process_group import join_process_group, worker_failures_raised
from lmft.model.load import silence_transformers
from lmft.output.run_logging import log_to_file
from lmft.output.terminal import Terminal
from lmft.runs.finished import Job, report_finished, show_result
from lmft.runs.provenance import find_origin
from lmft.runs.run_dir import RunFolder, create_run_folder, set_aside
from lmft.runs.run_id import name_folder
from lmft.storage.atomic import new_folder
from lmft.storage.checksums import CHECKSUMS
from lmft.storage.lock import run_lock
from lmft.tracker.run_log import Facts, Record, read_facts
from lmft.trainer.components import build_components, warn_about_remote_code
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
    """Start or resume the run that `config` describes; return its folder.

    If the run has finished, only show its result.

    Args:
        config: the run's config.
        values: the same as plain values, to be logged.
        composed: the texts of Hydra's files about the run by file name, to be kept.
        terminal: the terminal to print to.
        job: the run's place in a sweep, which waits if another process holds the run's lock.
        prune: returns whether to stop an unpromising run; called after each validation.

    Raises:
        UserError: something in the config can't be done.
        RunLocked: another process holds the run's lock, and this run is not part of a sweep.
        FloatingPointError: a loss is not finite.
        Interrupted: a signal arrived; the same command resumes the run.
    """
    started = time.monotonic()
    silence_transformers()
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
                progress, has_ended = fine_tune(session, prune)
                if not has_ended:
                    session.log.set_tags({"pruned_at": str(progress.step)})
                    terminal.print(f"Pruned at step {progress.step:,}.")
                    return folder
                result = conclude(session, progress)
    if finished:
        report_finished(folder, config.tracker, terminal, job)
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
    """Build and check everything, then open the run's folder and tracker."""
    warn_of_overlap(splits)
    facts = {} if config.fresh else read_facts(folder.path)  # of an earlier start
    join_process_group().tell(
        "open", config=composed["config.yaml"], precision=facts.get("precision")
    )
    with worker_failures_raised():
        components = build_components(config, splits, facts.get("precision"))
        engine = Engine(config, components)
    check_tracker(config, must_answer=not facts and (job is None or job.parent is None))
    terminal.show_config(folder.path.name, values, components.describe())
    if config.fresh and folder.path.exists():
        set_old_run_aside(folder, config, terminal)
    create_run_folder(folder, composed)
    with log_to_file(folder.log), closing(Record(folder.path)) as record:
        if config.model.trust_remote_code:
            warn_about_remote_code(str(config.model.name))
        origin = find_origin(composed)
        record.start(
            describe_facts(
                folder, config, values, splits, job, components.hardware.precision.value
            ),
            origin.tags | {"lmft.key": folder.key, "lmft.folder": str(folder.path)},
        )
        entry = None if job is None or job.parent is None else (job.parent, job.name)
        with config.tracker.track_run(record, entry) as log, worker_failures_raised():
            yield Session(config, values, splits, engine, folder, log, origin, terminal, started)


def check_tracker(config: RunConfig, must_answer: bool) -> None:
    """Check the tracker; if it must not answer, its store may be unavailable for now.

    A new run needs a store that answers. A resumed run does not, since its folder keeps what the
    store lacks, nor does a job of a sweep, which has checked the store.

    Raises:
        UserError: the tracker's settings are wrong, or its store does not answer but must.
    """
    try:
        config.tracker.check()
    except StoreUnavailable:
        if must_answer:
            raise


def describe_facts(
    folder: RunFolder,
    config: RunConfig,
    values: dict[str, Any],
    splits: dict[str, Split],
    job: Job | None,
    precision: str,
) -> Facts:
    """Return the facts that are logged when the run first starts."""
    name = folder.path.name if job is None else job.name
    corpus = config.dataset.name, splits["train"].digest()
    return Facts(name, folder.key, flatten(values), *corpus, precision)


def set_old_run_aside(folder: RunFolder, config: RunConfig, terminal: Terminal) -> None:
    """Rename the folder of the old run, which a fresh start replaces."""
    new_path = set_aside(folder.path)
    with closing(Record(new_path)) as record:
        record.set_tags({"superseded": "true", "lmft.folder": str(new_path)})
    config.tracker.move_run(str(folder.path), str(new_path))
    terminal.print(f"The old run is now {new_path.name}.")


def conclude(session: Session, progress: Progress) -> dict[str, Any]:
    """Evaluate the best weights, write the run's final files, and mark the run as finished."""
    folder = session.folder
    session.checkpoints.check_best(progress.best_step)
    best = session.checkpoints.best(progress.best_step)
    if progress.best_step < progress.step:
        session.engine.read_weights(str(best))
    show_samples("after", session)
    outcome = assess_best(session, progress)
    with new_folder(folder.checkpoint) as temporary:
        copy_model(best, temporary)
    result = outcome.as_dict(folder.path, session.seconds(progress))
    facts = CardFacts(
        session.config,
        session.values,
        session.origin,
        session.splits,
        session.components,
        result,
        read_samples(session),
    )
    write_card(facts, folder, session.log)
    folder.write_json("result.json", result)  # its existence marks the run as finished
    session.checkpoints.delete_all()
    return result


def assess_best(session: Session, progress: Progress) -> Outcome:
    """Return the results of the best weights on validation and test, and log them."""
    outcome = Outcome(progress)
    scores = {"validation": read_best_scores(session, progress)}
    if "test" in session.splits:
        with session.terminal.progress(0) as bars:
            scores["test"] = score_split("test", session, bars)
        show_loss("test", progress.best_step, scores["test"].loss, session)
    for name, split_scores in scores.items():
        assessment = assess(
            session.splits[name], split_scores, session.config, session.values, session.components
        )
        outcome.assessed[name] = assessment
        result = assessment.result
        metrics = {f"{name}/{key}": value for key, value in result.as_metrics().items()}
        session.log.log_metrics(metrics, progress.best_step)
        session.log.set_tags({f"{name}/{key}": value for key, value in result.as_tags().items()})
        write_sums(session.folder.path, assessment)
    return outcome


def copy_model(source: Path, target: Path) -> None:
    """Copy a Hugging Face folder, without the files that lmft keeps beside it."""
    for file in source.iterdir():
        if file.name not in (SCORES, CHECKSUMS):
            shutil.copyfile(file, target / file.name)
