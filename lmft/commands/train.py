"""One run of a composed config, in whatever process a launcher starts it.

Nothing heavy is imported before it is known that there is something to do.
"""

import gc
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lmft.commands.console import describe, prepare, report
from lmft.output.sanitize import strip_control

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmft.sweep.job import OpenJob


def run_job(composed: "DictConfig") -> float:
    """One run of a composed config; returns its lowest validation loss, in nats per token.

    A failing job of a sweep has told why; its loss is infinite, and the other jobs go on.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    settings = HydraConfig.get()
    files = {
        "config.yaml": OmegaConf.to_yaml(composed),
        "overrides.yaml": OmegaConf.to_yaml(settings.overrides.task),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.structured(settings)),
    }
    with suppress(OSError):  # Hydra's folder for the job, in which it was told to put nothing
        os.rmdir(settings.runtime.output_dir)
    if settings.mode is not RunMode.MULTIRUN:
        return go(composed, files)
    from lmft.config.compose import register_resolvers
    from lmft.hardware.ranks import share_cores
    from lmft.sweep.job import open_job

    prepare()  # a launcher may have started this process, and elsewhere
    os.chdir(settings.runtime.cwd)
    register_resolvers()
    share_cores(settings.launcher.get("n_jobs", 1))

    launch, words = Path(settings.sweep.dir), list(settings.overrides.task)
    with open_job(launch.expanduser().absolute(), settings.job.num, words) as job:
        print(strip_control(f"\nJob {job.note.number}: {job.note.name}"), flush=True)
        try:
            return go(composed, files, job)
        except Exception as error:
            job.fail(describe(error))
            report(error)
    return math.inf


def go(composed: "DictConfig", files: dict[str, str], job: "OpenJob | None" = None) -> float:
    """Train, or answer at once where that was done before; returns the validation loss."""
    from lmft.commands.local_launch import run_together
    from lmft.config.build import as_values, build, check_types
    from lmft.hardware.ranks import count_processes
    from lmft.output.terminal import Terminal
    from lmft.runs.finished import answer
    from lmft.runs.run_id import find_finished

    typed = check_types(composed)
    terminal = Terminal(brief=job is not None)
    folder = None if typed.fresh else find_finished(typed)
    if folder is not None:
        answer(folder, build(typed.tracker), terminal, job.place if job else None)
    elif (processes := count_processes(build(typed.hardware))) > 1:
        return run_together(go, processes, composed, files, job)
    else:
        from lmft.trainer.run import run

        if not gc.isenabled():  # the command line had put it off until all is imported
            gc.freeze()  # that stays; of a sweep's later jobs nothing may
            gc.enable()
        more = (job.place, job.prune) if job else ()
        folder = run(build(typed), as_values(typed), files, terminal, *more)
    if job is not None:
        return job.end(folder)
    return float(folder.read_json("result.json")["validation"]["loss"])
