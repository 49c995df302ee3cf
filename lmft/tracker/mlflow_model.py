"""Log the best weights of a finished run as a model of MLflow, with their metrics."""

import json
from pathlib import Path
from typing import Any

from lmft.tracker.run_log import read_points

NAME = "checkpoint"
METRICS = {  # those that describe the weights; sums such as nats belong to the run
    f"{split}/{name}"
    for split in ("validation", "test")
    for name in ("loss", "perplexity", "bits_per_byte", "word_perplexity")
}
PATH_TAG = "lmft.checkpoint"  # the folder of the weights
EXTERNAL_TAG = "mlflow.model.isExternal"  # MLflow's own: the files are not in its store


def log_checkpoint(client: Any, run_id: str, path: Path) -> None:
    """Log the weights of the run in the folder `path` as a model, by their path.

    Do nothing if the run has no result. The model becomes READY last, so a model that a kill left
    unfinished is completed by the next call.
    """
    result = path / "result.json"
    if not result.exists():  # the run was pruned
        return
    from mlflow.entities import LoggedModelOutput, Metric

    run = client.get_run(run_id)
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    if models and models[0].status == "READY":
        return
    step = int(json.loads(result.read_text())["best_step"])
    model = models[0] if models else _create(client, run, path, step)
    # Equal to the run's points in all but the model's id: the store keeps each of them once.
    points = [
        Metric(key, value, line.time, line.step, model_id=model.model_id)
        for line in read_points(path)
        if line.step == step
        for key, value in line.metrics.items()
        if key in METRICS
    ]
    client.log_batch(run_id, metrics=points)
    if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    client.finalize_logged_model(model.model_id, "READY")


def move_checkpoint(client: Any, run: Any, folder: str) -> None:
    """Change the path of the run's model, since the run is now in `folder`."""
    query = f"source_run_id = '{run.info.run_id}'"
    for model in client.search_logged_models([run.info.experiment_id], query):
        client.set_logged_model_tags(model.model_id, {PATH_TAG: f"{folder}/checkpoint"})


def _create(client: Any, run: Any, path: Path, step: int) -> Any:
    tags = {EXTERNAL_TAG: "true", PATH_TAG: str(path / "checkpoint")}
    params, run_id = {"best_step": str(step)}, run.info.run_id
    return client.create_logged_model(run.info.experiment_id, NAME, run_id, tags, params)
