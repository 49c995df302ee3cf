"""Where a run comes from: who, on which machine, from which commit, with which packages."""

import getpass
import os
import platform
import socket
import subprocess
from importlib.metadata import version

PACKAGES = ("lmft", "torch", "transformers", "tokenizers", "datasets", "hydra-core", "mlflow")


def describe_source(command: str) -> dict[str, str]:
    """Tags that say how to find a run's origin, under the names that MLflow knows."""
    tags = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "python": platform.python_version(),
    }
    commit = git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(git("status", "--porcelain"))).lower()
    return tags | {f"version.{name}": version(name) for name in PACKAGES}


def git(*words: str) -> str:
    """What git says in the working directory; nothing where there is no repository."""
    try:
        found = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
