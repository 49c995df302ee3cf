"""The origin of a run: user, machine, commit, uncommitted changes, package versions."""

import getpass
import logging
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import yaml

from lmft.output.sanitize import redact

logger = logging.getLogger(__name__)

PACKAGES = ("lmft", "torch", "transformers", "tokenizers", "datasets", "hydra-core", "mlflow")
DIFF_SIZE = 20_000  # characters, at most


@dataclass(frozen=True)
class Origin:
    """What is needed to reproduce a run."""

    command: str
    tags: dict[str, str]  # from `describe_source`
    changes: str  # uncommitted changes of the working directory


def find_origin(composed: Mapping[str, str]) -> Origin:
    """Return the origin of the run that is starting.

    Args:
        composed: the texts of Hydra's files about the run, by file name.
    """
    command = repeat_command(composed)
    return Origin(command, describe_source(command), redact(describe_changes()))


def describe_source(command: str) -> dict[str, str]:
    """Return tags about the origin of a run, under MLflow's names where it has them."""
    tags = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "lmft",
        "command": redact(command),
        "mlflow.source.type": "LOCAL",
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "python": platform.python_version(),
        "directory": os.getcwd(),
    }
    commit = git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(has_changes()).lower()
    return tags | versions()


@cache
def versions() -> dict[str, str]:
    """Return a tag with the version of each package."""
    return {f"version.{name}": version(name) for name in PACKAGES}


def has_changes() -> bool:
    """Return whether files of the repository, or new Python or YAML files beside them, differ."""
    kinds = ("*.py", "*.yaml", ":(exclude,glob)**/.hydra/**")  # .hydra: of a run's folder
    new = git("ls-files", "--others", "--exclude-standard", "--", *kinds)
    return bool(new or git("status", "--porcelain", "--untracked-files=no"))


def describe_changes() -> str:
    """Return the uncommitted changes of the working directory: names of new files, and a diff."""
    new_files = git("ls-files", "--others", "--exclude-standard", "--directory").splitlines()
    diff = git("diff", "HEAD", "--no-color", "--no-ext-diff")
    text = "".join(f"new file: {name}\n" for name in new_files) + diff
    if len(text) > DIFF_SIZE:
        return f"{text[:DIFF_SIZE]}\n... and {len(text) - DIFF_SIZE:,} more characters"
    return text


def repeat_command(composed: Mapping[str, str]) -> str:
    """Return the command that reproduces this run; in a sweep, this job only.

    Args:
        composed: the texts of Hydra's files about the run, by file name.
    """
    words = yaml.safe_load(composed.get("overrides.yaml", "[]"))
    runtime = (yaml.safe_load(composed.get("hydra.yaml", "{}")) or {}).get("runtime", {})
    flags = [
        word
        for source in runtime.get("config_sources", [])
        if source["provider"] == "command-line"
        for word in ("--config-dir", source["path"])
    ]
    # Redacted before quoting, which could hide a secret from redact().
    return shlex.join(["lmft", *map(redact, [*flags, *words])])


def log_other_versions(begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Log which code a resumed run was begun with, if it was other code.

    On a GPU, whose kernels change with versions, the last bits of its numbers may differ then.

    Args:
        begun: the tags of the run so far; empty if it is new.
        now: the tags of this start.
    """
    for tag in ("mlflow.source.git.commit", "version.lmft", "version.torch"):
        if tag in begun and begun[tag] != now.get(tag):
            logger.info(
                "begun with %s %s and resumed with %s: the last bits may be those of neither",
                tag.rpartition(".")[2], begun[tag], now.get(tag),
            )  # fmt: skip


def git(*words: str) -> str:
    """Return the output of git in the working directory; empty if there is no repository."""
    try:
        process = subprocess.run(
            ["git", *words], capture_output=True, text=True, errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""
