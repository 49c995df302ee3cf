"""Run a config: from the config to a fine-tuned model and its result.

With several processes, rank 0 calls `train` and every other rank `train_as_worker`; from
`train_to_end` on all run the same code.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lmft.config.knobs import flatten
from lmft.dataset.splits import warn_of_overlap
from lmft.errors import StoreUnavailable
from lmft.evaluation.scoring import Scores
from lmft.evaluation.sums import write_sums
from lmft.hardware.device import Choices
from lmft.hardware.process_group import join_process_group, worker_failures_raised
from lmft.metrics import of_split
from lmft.model.load import silence_transformers
from lmft.output.run_logging import log_to_file
from lmft.output.terminal import Terminal
from lmft.runs.finished import Job, offer_to_continue, report_finished, show_result
from lmft.runs.provenance import log_other_versions
from lmft.runs.run import CONFIG, RESULT, Run, set_aside
from lmft.runs.source_run import KNOB, find_source, read_source
from lmft.signals import defer_signals
from lmft.storage.atomic import new_folder
from lmft.storage.checksums import CHECKSUMS
from lmft.storage.lock import run_lock
from lmft.tracker.protocol import NullLog
from lmft.tracker.run_log import Facts, Record, read_facts
from lmft.trainer.components import build_components
from lmft.trainer.evaluate import assess
from lmft.trainer.loop import SCORES, fine_tune, read_best_scores
from lmft.trainer.model_card import CardFacts, write_card
from lmft.trainer.progress import Outcome, Progress
from lmft.trainer.run_tokenizer import warn_about_remote_code
from lmft.trainer.session import Session, read_samples, score_split, show_loss, show_samples
from lmft.trainer.training import Training, start_training

COMPILED = "compiled"  # the tag of a run whose layers torch.compile compiles


def train(run: Run, terminal: Terminal, job: Job | None = None) -> None:
    """Start or resume a run; if it has finished, only show its result.

    Args:
        run: what to train.
        terminal: the terminal to print to.
        job: the run's place in a sweep, which waits if another process holds the run's lock.

    Raises:
        UserError: something in the config can't be done.
        RunLocked: another process holds the run's lock, and this run is not part of a sweep.
        FloatingPointError: a loss is not finite.
        Interrupted: a signal arrived; the same command resumes the run.
    """
    started = time.monotonic()
    silence_transformers()
    run.check_training_text()
    with run_lock(run.folder, wait=job is not None):
        finished = run.is_finished  # by another process, perhaps, while this one waited
        if not finished:
            with terminal.status("loading tokenizer, tokens and model"):
                training, is_new = build_on_all_ranks(run)
            # A job's sweep has checked the store; a resumed run's folder keeps what it lacks.
            in_sweep = job is not None and job.parent is not None
            with terminal.status("connecting to the tracker"):
                check_tracker(run, must_answer=is_new and not in_sweep)
            if is_new and job is None:
                offer_to_continue(run, training.steps, terminal)
            components = training.components
            sizes = components.describe_text() | components.describe()
            sizes |= {"tracker": run.tracker.describe()}
            if run.config.from_run is not None:
                source = find_source(run.config.from_run)
                sizes["from"] = f"{source.describe()} of {source.run}"
            terminal.show_sizes({"run": run.folder.name} | sizes)
            open_folder(run, terminal)
            with open_session(run, training, terminal, job, started) as session:
                has_ended = train_to_end(session)
            if not has_ended:
                return
    if finished:
        report_finished(run, terminal, job)
    else:
        show_result(run, terminal)


def train_as_worker(job: dict[str, Any]) -> None:
    """Do on this rank what rank 0 does, quietly; `job` is what it shared."""
    composed = OmegaConf.create(job["config"])
    assert isinstance(composed, DictConfig)
    run = Run(composed, folder=Path(job["folder"]))
    training = build_training(run, Choices(**job["choices"]))
    never = Job("", None).prune
    train_to_end(Session(run, training, NullLog(), Terminal.quiet(), never, time.monotonic()))


def train_to_end(session: Session) -> bool:
    """Train, then evaluate the best weights; return whether the run has ended."""
    progress, has_ended = fine_tune(session)
    if has_ended:
        conclude(session, progress)
    else:
        session.log.set_tags({"pruned_at": str(progress.step)})
        session.terminal.print(f"Pruned at step {progress.step:,}.")
    return has_ended


def build_on_all_ranks(run: Run) -> tuple[Training, bool]:
    """Build and check everything on all ranks; return it, and whether the run is new."""
    warn_of_overlap(run.splits)
    facts = {} if run.config.fresh else read_facts(run.folder)  # of an earlier start
    choices = Choices()
    if facts:
        choices = Choices(facts.get("precision"), COMPILED in facts.get("tags", {}))
    join_process_group().share(
        {"config": run.files[CONFIG], "folder": str(run.folder), "choices": asdict(choices)}
    )
    with worker_failures_raised():
        return build_training(run, choices), not facts


def build_training(run: Run, choices: Choices) -> Training:
    """Build the components and the optimizer, on any rank; `choices` are a resumed run's."""
    components = build_components(run.config, run.splits, choices)
    return start_training(run.config, components)


def check_tracker(run: Run, must_answer: bool) -> None:
    """Check the tracker; if it must not answer, its store may be unavailable for now.

    Raises:
        UserError: the tracker's settings are wrong, or its store does not answer but must.
    """
    try:
        run.tracker.check()
    except StoreUnavailable:
        if must_answer:
            raise


def open_folder(run: Run, terminal: Terminal) -> None:
    """Create the run's folder; a fresh start first renames the old run's, which it replaces."""
    if run.config.fresh and run.folder.exists():
        new_path = set_aside(run.folder)
        with closing(Record(new_path)) as record:
            record.set_tags({"superseded": "true", "lmft.folder": str(new_path)})
        run.tracker.move_run(str(run.folder), str(new_path))
        terminal.print(f"The old run is now {new_path.name}.")
    run.create_folder()


@contextmanager
def open_session(
    run: Run, training: Training, terminal: Terminal, job: Job | None, started: float
) -> Iterator[Session]:
    """Open the run's log file, its record and its tracker on rank 0."""
    job = job or Job(run.display_name, None)
    with log_to_file(run.folder / "run.log"), closing(Record(run.folder)) as record:
        if run.config.model.trust_remote_code:
            warn_about_remote_code(str(run.config.model.name))
        hardware = training.components.hardware
        if hardware.device.type == "cuda":
            log_other_versions(read_facts(run.folder).get("tags", {}), run.origin.tags)
        tags = run.origin.tags | {"lmft.key": run.key, "lmft.folder": str(run.folder)}
        tags |= {COMPILED: "true"} if hardware.compile else {}
        if run.config.from_run is not None:
            tags |= find_source(run.config.from_run).as_tags()
        record.start(
            Facts(job.name, run.key, flatten(run.values), run.corpora, hardware.precision.value),
            tags,
        )
        with run.tracker.track_run(record, job.sweep_entry) as log, worker_failures_raised():
            yield Session(run, training, log, terminal, job.prune, started)


def conclude(session: Session, progress: Progress) -> None:
    """Evaluate the best weights, write the run's final files, and mark the run as finished."""
    run, checkpoints = session.run, session.checkpoints
    best = checkpoints.best(progress.best_step)
    if session.is_rank_zero:
        checkpoints.check_best(progress.best_step)
    # All ranks take part, so a signal waits.
    with defer_signals() if session.process_group.size > 1 else nullcontext():
        if progress.best_step < progress.step:
            session.components.network.read_weights(best)
        show_samples("after", session)
        scores = score_best(session, progress)
    if not session.is_rank_zero:
        return
    outcome = assess_best(session, progress, scores)
    device = session.components.hardware.device
    with new_folder(run.checkpoint) as temporary:
        copy_model(best, temporary)
    result = outcome.as_dict(run.folder, session.seconds(progress), device)
    if (source := read_source(run.folder)) is not None:
        result[KNOB] = source.as_dict()
    write_card(CardFacts(run, session.components, result, read_samples(run)), session.log)
    run.write_json(RESULT, result)  # its existence marks the run as finished
    run.clear_checkpoints()


def score_best(session: Session, progress: Progress) -> dict[str, Scores]:
    """Return the scores of the best weights on validation and, if there is one, test."""
    scores = {"validation": read_best_scores(session, progress)}
    if "test" in session.run.splits:
        with session.terminal.progress(0) as bars:
            scores["test"] = score_split("test", session, bars)
        show_loss("test", progress.best_step, scores["test"].loss, session)
    return scores


def assess_best(session: Session, progress: Progress, scores: dict[str, Scores]) -> Outcome:
    """Return the results of the best weights, and log them."""
    run, outcome = session.run, Outcome(progress)
    for name, split_scores in scores.items():
        assessment = assess(run, session.components, run.splits[name], split_scores)
        outcome.assessed[name] = assessment
        result = assessment.result
        session.log.log_metrics(of_split(name, result.as_metrics()), progress.best_step)
        session.log.set_tags({f"{name}/{key}": value for key, value in result.as_tags().items()})
        write_sums(run.folder, assessment)
    return outcome


def copy_model(source: Path, target: Path) -> None:
    """Copy a Hugging Face folder, without the files that lmft keeps beside it."""
    for file in source.iterdir():
        if file.name not in (SCORES, CHECKSUMS):
            shutil.copyfile(file, target / file.name)
