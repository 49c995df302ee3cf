"""Train on a composed config, in whatever process a launcher starts it.

Nothing heavy is imported before it is known that there is something to do.
"""

import gc
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lmft.commands.console import describe, prepare, report, set_line_prefix
from lmft.output.sanitize import strip_control

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmft.runs.run import Run
    from lmft.sweep.job import SweepJob


def run_job(composed: "DictConfig") -> float:
    """Run a composed config; return its lowest validation loss, in nats per token.

    A failing job of a sweep reports why and returns infinity, so that the other jobs run.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lmft.config.compose import describe_composed
    from lmft.runs.run import Run

    settings = HydraConfig.get()
    files = describe_composed(composed, settings)
    with suppress(OSError):  # Hydra's empty folder for the job
        os.rmdir(settings.runtime.output_dir)
    if settings.mode is not RunMode.MULTIRUN:
        run = Run(composed, files)
        show_config(run)
        return train(run)
    from lmft.config.compose import register_resolvers
    from lmft.hardware.ranks import share_cores
    from lmft.sweep.job import describe_start, open_job

    prepare()  # a launcher may have started this process, in another folder
    os.chdir(settings.runtime.cwd)
    register_resolvers()
    share_cores(settings.launcher.get("n_jobs", 1))

    launch = Path(settings.sweep.dir).expanduser().absolute()
    with open_job(launch, settings.job.num, list(settings.overrides.task)) as job:
        set_line_prefix(job.prefix)
        start = strip_control(describe_start(job, launch, settings.job.num))
        print(start if job.prefix else f"\n{start}", flush=True)
        try:
            return train(Run(composed, files), job)
        except Exception as error:
            job.fail(describe(error))
            report(error)
    return math.inf


def train_words(words: list[str]) -> Path:
    """Train as `lmft WORDS...` does, without Hydra's application; return the run's folder."""
    from lmft.config.compose import compose_run
    from lmft.config.error_messages import as_user_error
    from lmft.runs.run import Run

    try:
        run = Run(*compose_run(words))
    except Exception as error:
        raise as_user_error(error, composing=True) or error from None
    show_config(run)
    train(run)
    return run.folder


def show_config(run: "Run") -> None:
    """Print what was composed, before anything is loaded."""
    from lmft.output.terminal import Terminal
    from lmft.runs.run_id import model_label

    model, dataset = run.typed.model, run.typed.dataset
    Terminal().show_config(f"{model_label(model)} on {dataset.name}", run.values)


def train(run: "Run", job: "SweepJob | None" = None) -> float:
    """Train, or show the result of a finished run at once; return the validation loss."""
    from lmft.config.build import build
    from lmft.hardware.ranks import count_processes
    from lmft.output.terminal import Terminal
    from lmft.runs.finished import report_finished

    terminal = Terminal() if job is None else Terminal(brief=True, prefix=job.prefix)
    entry = job.entry if job else None
    with terminal.status("reading the corpus, whose content names the run"):
        finished = run.is_finished
    if finished:
        report_finished(run, terminal, entry)
    elif (processes := count_processes(build(run.typed.hardware))) > 1:
        from lmft.commands.local_launch import launch_processes

        return launch_processes(train, processes, run, job)
    else:
        with terminal.status("loading torch and transformers"):
            from lmft.trainer.train import train as train_here

        if not gc.isenabled():  # the command line disabled it until all is imported
            gc.freeze()  # modules are never garbage; later jobs of a sweep may leave some
            gc.enable()
        train_here(run, terminal, entry)
    if job is not None:
        return job.end(run.folder, was_finished=finished)
    return float(run.read_json("result.json")["validation"]["loss"])
