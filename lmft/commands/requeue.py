"""Ask SLURM to run a job again that a signal stopped shortly before its time limit."""

import os
import signal
import subprocess
from collections.abc import Mapping

from lmft.errors import Interrupted

RESUMES = "the same command resumes"
SECONDS = 60.0  # that `scontrol` may take


def describe_stop(interrupted: Interrupted, can_resume: bool = True) -> str:
    """Return what follows after a command was stopped; ask for its requeue if SLURM warned it."""
    if not can_resume:
        return "stopped."
    if interrupted.signal_number != signal.SIGUSR1:
        return f"stopped; {RESUMES}."
    job = job_id(os.environ)
    reason = requeue(job)
    if reason is None:
        return f"stopped; SLURM requeues job {job}, which resumes."
    return f"stopped; SLURM did not requeue job {job} ({reason}); {RESUMES}."


def job_id(environment: Mapping[str, str]) -> str:
    """Return the id of this SLURM job; of an array, the id of this task, not of the array."""
    array, task = (environment.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")


def requeue(job: str) -> str | None:
    """Ask SLURM to requeue a job; return None, or why that failed."""
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else None
