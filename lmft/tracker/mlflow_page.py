"""The MLflow page on a store: its server, and the address of an experiment."""

import os
import subprocess
import sys
from pathlib import Path

from lmft.errors import UserError
from lmft.tracker.mlflow_store import query_first, sqlite_path, store_uri
from lmft.tracker.mlflow_view import ADDRESS, TAG

LOCALHOST = "127.0.0.1"
QUIET = {  # without telemetry, and without a process that runs jobs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def find_page(uri: str | None, experiment: str, port: int) -> tuple[str, list[str]]:
    """Return the address of the experiment's training runs, and the command of a server.

    Args:
        uri: of the store; None: the default one.
        experiment: whose runs to show; where it is missing, the page of all experiments.
        port: of the server.

    Returns:
        The address; and the command that serves it, empty if the store is a server itself.

    Raises:
        UserError: there is no store yet.
    """
    store = store_uri(uri)
    if store.startswith("http"):
        return store, []
    path = sqlite_path(store)
    if path is not None and not path.exists():
        raise UserError(
            f"There is no store {path} yet; train a run first, or set tracker.uri to another one."
        )
    query = (
        "SELECT experiments.experiment_id, view.value FROM experiments LEFT JOIN experiment_tags "
        f"AS view ON view.experiment_id = experiments.experiment_id AND view.key = '{TAG}' "
        "WHERE name = ?"
    )
    found = path and query_first(path, query, experiment)
    address = f"http://{LOCALHOST}:{port}/"
    if found:
        number, view = found
        address += f"#/experiments/{number}/runs{ADDRESS if view else ''}"
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", LOCALHOST]
    return address, [*command, "--port", str(port), "--backend-store-uri", store]


def serve(command: list[str]) -> int:
    """Run the server until it is stopped; return its exit code."""
    return subprocess.run(command, env={**os.environ, **QUIET}, cwd=Path.cwd()).returncode
