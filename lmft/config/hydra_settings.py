"""Check the `hydra` part of a config, from which Hydra makes objects and folders at its start."""

import re
from typing import Any

from lmft.config.knobs import walk
from lmft.errors import UserError

FOLDERS = {  # where Hydra makes folders, and lmft removes them: as conf/config.yaml has it
    ("run", "dir"): r"\$\{run_root\}/\.launches/\$\{now:[^/}]*\}",
    ("sweep", "dir"): r"\$\{run_root\}/\.launches/\$\{now:[^/}]*\}",
    ("sweep", "subdir"): r"\$\{hydra\.job\.num\}",
}
COMMANDS = ("setup", "srun_args")  # of a launcher: they run in a shell
CLUSTERS = (None, "auto", "local")  # that a sweep may be sent to by its config


def check_hydra(settings: dict[str, Any]) -> None:
    """Refuse settings that would run code, write elsewhere, or store the command line unredacted.

    Raises:
        UserError: with the knob, and the way out.
    """
    if not settings:
        return
    others = set(settings.get("callbacks") or {}) - {"sweep"}
    if others:
        raise UserError(f"hydra.callbacks.{min(others)} may not be set; only lmft's own is called.")
    for (group, knob), pattern in FOLDERS.items():
        value = (settings.get(group) or {}).get(knob)
        if not re.fullmatch(pattern, str(value)):
            raise UserError(f"hydra.{group}.{knob} is {value!r}; set run_root=PATH instead.")
    if settings.get("output_subdir") is not None:
        raise UserError("hydra.output_subdir must stay null; .hydra is in the run's folder.")
    if (settings.get("job") or {}).get("chdir"):
        raise UserError("hydra.job.chdir must stay false; relative paths start where lmft starts.")
    if (settings.get("job") or {}).get("env_set"):
        raise UserError("hydra.job.env_set may not be set; set variables before the command.")
    for kind in ("job_logging", "hydra_logging"):
        for part in ("handlers", "formatters", "filters"):
            if (settings.get(kind) or {}).get(part):
                raise UserError(f"hydra/{kind} must stay none; lmft writes run.log itself.")
    check_launcher(settings.get("launcher") or {})


def check_launcher(launcher: dict[str, Any]) -> None:
    """Refuse shell commands, and texts that could become some in a job's script.

    Raises:
        UserError: there are such.
    """
    for path, value in walk(launcher, "hydra.launcher"):
        for text in (path, value):  # a key may be a text that is not printable, too
            if isinstance(text, str) and not text.isprintable():
                raise UserError(f"{path!r} is {value!r}; it must be a text on one line.")
    for knob in COMMANDS:
        if launcher.get(knob):
            raise UserError(
                f"hydra.launcher.{knob} may not be set; run the commands in the shell before lmft, "
                "whose environment the jobs inherit."
            )
    folder = launcher.get("submitit_folder")
    if folder is not None and not re.fullmatch(r"\$\{hydra\.sweep\.dir\}/\.submitit/%j", folder):
        raise UserError(f"hydra.launcher.submitit_folder is {folder!r}; set run_root=PATH instead.")
    ray = launcher.get("ray") or {}
    for part in ("init", "remote"):
        if (ray.get(part) or {}).get("runtime_env"):
            raise UserError(
                f"hydra.launcher.ray.{part}.runtime_env may not be set; make the environment on "
                "the cluster."
            )
    address = (ray.get("init") or {}).get("address")
    if address not in CLUSTERS:
        raise UserError(
            f"hydra.launcher.ray.init.address is {address!r}; set the variable RAY_ADDRESS instead."
        )
