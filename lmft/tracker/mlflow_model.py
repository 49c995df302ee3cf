"""Log the best weights of a finished run as a model of MLflow, with their metrics and files."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

from lmft.config.training_knobs import LogModel
from lmft.errors import UserError
from lmft.storage.atomic import read_json
from lmft.tracker.mlflow_errors import store_errors
from lmft.tracker.mlflow_flavor import write_flavor
from lmft.tracker.mlflow_registry import check_name, has_version, register
from lmft.tracker.mlflow_store import open_client, query_first, sqlite_path
from lmft.tracker.run_log import read_facts, read_points

RESULT = "result.json"  # of a finished run
METRICS = {  # those that describe the weights; sums such as nats belong to the run
    f"{split}/{name}"
    for split in ("validation", "test")
    for name in ("loss", "perplexity", "bits_per_byte", "word_perplexity")
}
PATH_TAG = "lmft.checkpoint"  # the folder of the weights
NOTE_TAG = "mlflow.note.content"  # MLflow's own: the description
EXTERNAL_TAG = "mlflow.model.isExternal"  # of a model without files, as an earlier lmft logged it


class ModelNotSaved(Exception):
    """The weights can't be written as MLflow loads them."""


@dataclass(frozen=True)
class ModelLogging:
    """How the weights of a finished run are logged and registered."""

    log_model: str = LogModel.best.value
    register: str | None = None  # the name of a registered model; None: it is not registered

    def __post_init__(self) -> None:
        if self.log_model not in LogModel.__members__:
            raise UserError(f"tracker.log_model is {self.log_model!r}; choose best or none.")
        if self.register is None:
            return
        check_name(self.register)
        if self.log_model == LogModel.none.value:
            raise UserError(
                f"tracker.register is {self.register!r}, but tracker.log_model=none logs no model; "
                "leave one of them out."
            )

    def find_weights(self, path: Path) -> Path | None:
        """Return the weights to log of the run in the folder `path`; None if there are none."""
        weights = path / "checkpoint"
        wanted = self.log_model == LogModel.best.value and (path / RESULT).exists()
        return weights if wanted and weights.is_dir() else None

    def is_logged(self, uri: str, path: Path, run_id: str) -> bool:
        """Return whether the store has what it should of the run in the folder `path`."""
        if self.find_weights(path) is None:
            return True
        is_registered = self.register is None or has_version(uri, self.register, run_id)
        return is_registered and has_model(uri, run_id)

    def log(self, client: Any, run_id: str, path: Path, in_sweep: bool) -> None:
        """Log the weights of the run in the folder `path`, and register them; each once.

        Args:
            client: of the store.
            run_id: of the run.
            path: its folder.
            in_sweep: whether the run is a job of a sweep, whose end names the best version.
        """
        weights = self.find_weights(path)
        if weights is not None:
            model = log_weights(client, run_id, path, weights)
            if self.register is not None:
                register(client, self.register, model, labels_of(path), is_single=not in_sweep)


def has_model(uri: str, run_id: str) -> bool:
    """Return whether the run has a logged model with files; SQLite is read without MLflow."""
    database = sqlite_path(uri)
    if database is None:
        with store_errors(uri):
            client = open_client(uri)
            model = find_model(client, client.get_run(run_id))
        return model is not None and is_complete(model)
    query = (
        "SELECT 1 FROM logged_models AS model WHERE source_run_id = ? AND status = 2 "  # READY
        "AND lifecycle_stage = 'active' AND NOT EXISTS (SELECT 1 FROM logged_model_tags "
        f"WHERE model_id = model.model_id AND tag_key = '{EXTERNAL_TAG}')"
    )
    return query_first(database, query, run_id) is not None


def find_model(client: Any, run: Any) -> Any | None:
    """Return the logged model of a run; None if there is none."""
    query = f"source_run_id = '{run.info.run_id}'"
    return next(iter(client.search_logged_models([run.info.experiment_id], query)), None)


def is_complete(model: Any) -> bool:
    """Return whether a logged model has its files."""
    return model.status == "READY" and EXTERNAL_TAG not in model.tags


def log_weights(client: Any, run_id: str, path: Path, weights: Path) -> Any:
    """Return the logged model of the run in the folder `path`, which is created if it is missing.

    The model becomes READY last, so a model that a kill left unfinished is completed by the next
    call.

    Raises:
        ModelNotSaved: MLflow has no form for these weights.
    """
    run = client.get_run(run_id)
    model = find_model(client, run)
    if model is not None and is_complete(model):
        return model
    step = int(read_json(path / RESULT)["best_step"])
    model = model or _create(client, run, path, step)
    _log_metrics(client, model, path, step)
    with TemporaryDirectory(prefix="lmft-") as temporary:
        folder = Path(temporary, "model")  # with usual permissions, which a store copies
        _write(folder, path, weights, model)
        _send(client, model, folder)
    if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
        from mlflow.entities import LoggedModelOutput

        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    if EXTERNAL_TAG in model.tags:
        client.delete_logged_model_tag(model.model_id, EXTERNAL_TAG)
    return client.finalize_logged_model(model.model_id, "READY")


def move_checkpoint(client: Any, run: Any, folder: str) -> None:
    """Change the path of the run's model, since the run is now in `folder`."""
    model = find_model(client, run)
    if model is not None:
        client.set_logged_model_tags(model.model_id, {PATH_TAG: f"{folder}/checkpoint"})


def _create(client: Any, run: Any, path: Path, step: int) -> Any:
    labels = labels_of(path)
    tags = {PATH_TAG: str(path / "checkpoint"), NOTE_TAG: "\n\n".join(labels.values()), **labels}
    name = re.sub(r"[^\w=, -]+", "_", path.name)  # MLflow takes no dots here
    params, run_id = {"best_step": str(step)}, run.info.run_id
    return client.create_logged_model(run.info.experiment_id, name, run_id, tags, params)


def _log_metrics(client: Any, model: Any, path: Path, step: int) -> None:
    """Log what the weights reach.

    Equal to the run's points in all but the model's id: the store keeps each of them once.
    """
    from mlflow.entities import Metric

    points = [
        Metric(key, value, line.time, line.step, model_id=model.model_id)
        for line in read_points(path)
        if line.step == step
        for key, value in line.metrics.items()
        if key in METRICS
    ]
    client.log_batch(model.source_run_id, metrics=points)


def _write(folder: Path, path: Path, weights: Path, model: Any) -> None:
    from mlflow.models import Model

    own = {"artifact_path": model.artifact_location, "model_id": model.model_id}
    description = Model(
        **own, run_id=model.source_run_id, model_uuid=model.model_id, metadata=labels_of(path)
    )
    try:
        write_flavor(folder, weights, read_facts(path).get("params", {}), description)
    except Exception as error:  # whatever MLflow and transformers raise on a kind of their own
        raise ModelNotSaved(f"{type(error).__name__}: {error}") from error


def _send(client: Any, model: Any, folder: Path) -> None:
    """Send the files to the store; where it is a folder here, by hard links."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    location = model.artifact_location
    if urlparse(location).scheme in ("", "file"):
        target = local_file_uri_to_path(location)
        shutil.copytree(folder, target, copy_function=link_or_copy, dirs_exist_ok=True)
    else:
        client.log_model_artifacts(model.model_id, str(folder))


def labels_of(path: Path) -> dict[str, str]:
    """Return what each split's perplexity was measured on, of the run in the folder `path`."""
    result = read_json(path / RESULT)
    splits = {split: result.get(split) for split in ("validation", "test")}
    return {f"{split}/label": str(found["label"]) for split, found in splits.items() if found}


def link_or_copy(source: str, target: str) -> None:
    """Make `target` the file `source`: by a hard link, or by a copy on another disk."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
