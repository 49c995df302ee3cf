"""Register the models of finished runs in MLflow's registry, and name the best version."""

import json
from typing import Any

from lmft.errors import UserError
from lmft.tracker.mlflow_errors import store_errors
from lmft.tracker.mlflow_store import open_client, query_first, sqlite_path

BEST = "best"  # the alias
LONGEST_NAME = 250  # characters
FORBIDDEN = "/:%"
VERSIONS_TAG = "mlflow.modelVersions"  # MLflow's own, of a logged model


def check_name(name: Any) -> None:
    """Check that a registered model can have that name.

    Raises:
        UserError: it can't.
    """
    if not is_name(name) or name in (".", "..") or set(FORBIDDEN) & set(name):
        raise UserError(
            f"tracker.register is {name!r}; set it to the name of a registered model, of at most "
            f"{LONGEST_NAME} characters, without / : or %."
        )


def is_name(name: Any) -> bool:
    """Return whether MLflow takes it as a name: text on one line, not too long."""
    is_text = isinstance(name, str) and name.isprintable() and name.strip()
    return bool(is_text) and len(name) <= LONGEST_NAME


def register(client: Any, name: str, model: Any, labels: dict[str, str], is_single: bool) -> None:
    """Register a logged model as a version of `name`, unless its run has one.

    Args:
        client: of the store.
        name: of the registered model, which is created if it is new.
        model: the logged model.
        labels: what was measured, as the version's description.
        is_single: whether the version is the best one where none is.
    """
    found = find_version(client, name, model.source_run_id)
    version = found or _create_version(client, name, model, labels)
    if is_single and BEST not in client.get_registered_model(name).aliases:
        set_best(client, name, version)


def find_version(client: Any, name: str, run_id: str) -> str | None:
    """Return the newest version of `name` that is of the run; None if there is none."""
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    found = [int(version.version) for version in versions if version.name == name]
    return str(max(found)) if found else None


def has_version(uri: str, name: str, run_id: str) -> bool:
    """Return whether the run has a version of `name`; a SQLite store is read without MLflow."""
    database = sqlite_path(uri)
    if database is None:
        with store_errors(uri):
            return find_version(open_client(uri), name, run_id) is not None
    query = (
        "SELECT 1 FROM model_versions "
        "WHERE name = ? AND run_id = ? AND current_stage != 'Deleted_Internal'"
    )
    return query_first(database, query, name, run_id) is not None


def set_best(client: Any, name: str, version: str) -> None:
    """Move the alias `best` to a version."""
    client.set_registered_model_alias(name, BEST, version)


def _create_version(client: Any, name: str, model: Any, labels: dict[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # By its location: a database would look for models:/ID in the store of the environment.
    version = client.create_model_version(
        name,
        model.artifact_location,
        model.source_run_id,
        description="\n\n".join(labels.values()),
        await_creation_for=None,
        model_id=model.model_id,
    )
    known = json.loads(client.get_logged_model(model.model_id).tags.get(VERSIONS_TAG, "[]"))
    entry = {"name": name, "version": version.version}
    if entry not in known:  # a server has done so
        tags = {VERSIONS_TAG: json.dumps([*known, entry])}
        client.set_logged_model_tags(model.model_id, tags)
    return str(version.version)
