"""Where a run comes from: who, on which machine, from which commit, with which packages."""

import getpass
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

PACKAGES = ("lmft", "torch", "transformers", "tokenizers", "datasets", "hydra-core", "mlflow")

DIFF_SIZE = 20_000  # characters that are kept


@dataclass(frozen=True)
class Origin:
    """What it takes to make a run again."""

    command: str
    tags: dict[str, str]  # as `describe_source` tells them
    changes: str  # what the working directory had beyond its commit


def find_origin(composed: Mapping[str, str]) -> Origin:
    """Where the run that is starting comes from; `composed`: Hydra's files about it, by name."""
    command = repeat_command(composed)
    return Origin(command, describe_source(command), redact(describe_changes()))


def describe_source(command: str) -> dict[str, str]:
    """Tags that say how to find a run's origin, under the names that MLflow knows."""
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
        tags["git.dirty"] = str(bool(git("status", "--porcelain"))).lower()
    return tags | versions()


@cache
def versions() -> dict[str, str]:
    """Tags that name the packages."""
    return {f"version.{name}": version(name) for name in PACKAGES}


def describe_changes() -> str:
    """What the working directory has beyond its commit: new files by name, and a diff."""
    new = git("ls-files", "--others", "--exclude-standard", "--directory").splitlines()
    diff = git("diff", "HEAD", "--no-color", "--no-ext-diff")
    text = "".join(f"new file: {name}\n" for name in new) + diff
    if len(text) > DIFF_SIZE:
        return f"{text[:DIFF_SIZE]}\n... and {len(text) - DIFF_SIZE:,} characters more"
    return text


def repeat_command(composed: Mapping[str, str]) -> str:
    """The command that makes this run again: of a sweep, this job alone.

    Args:
        composed: Hydra's files about the run, by name.
    """
    words = yaml.safe_load(composed.get("overrides.yaml", "[]"))
    runtime = (yaml.safe_load(composed.get("hydra.yaml", "{}")) or {}).get("runtime", {})
    flags = [
        word
        for source in runtime.get("config_sources", [])
        if source["provider"] == "command-line"
        for word in ("--config-dir", source["path"])
    ]
    return shlex.join(["lmft", *map(redact, [*flags, *words])])  # quotes would hide a secret


def git(*words: str) -> str:
    """What git says in the working directory; nothing where there is no repository."""
    try:
        found = subprocess.run(
            ["git", *words], capture_output=True, text=True, errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
