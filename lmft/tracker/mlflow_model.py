"""The best weights of a finished run as a logged model of MLflow, with what they reach."""

import json
from pathlib import Path
from typing import Any

from lmft.tracker.run_log import read_points

NAME = "checkpoint"

METRICS = {  # the weights' own; sums such as nats stay the run's
    f"{split}/{name}"
    for split in ("validation", "test")
    for name in ("loss", "perplexity", "bits_per_byte", "word_perplexity")
}

PLACE = "lmft.checkpoint"  # the folder

EXTERNAL = "mlflow.model.isExternal"  # MLflow's tag: it does not hold the files


def show_checkpoint(client: Any, run_id: str, path: Path) -> None:
    """Log the weights of a run once, where its folder has a result; only their place is stored.

    The model is READY last, so one that a kill left unfinished is gone on with.
    """
    result = path / "result.json"
    if not result.exists():  # the run was pruned
        return
    from mlflow.entities import LoggedModelOutput, Metric

    run = client.get_run(run_id)
    known = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    if known and known[0].status == "READY":
        return
    step = int(json.loads(result.read_text())["best_step"])
    model = known[0] if known else _make(client, run, path, step)
    # The very points that the run has: the store takes them for the same, and notes whose they are.
    points = [
        Metric(key, value, line.time, line.step, model_id=model.model_id)
        for line in read_points(path)
        if line.step == step
        for key, value in line.metrics.items()
        if key in METRICS
    ]
    client.log_batch(run_id, metrics=points)
    if model.model_id not in {made.model_id for made in run.outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    client.finalize_logged_model(model.model_id, "READY")


def move_checkpoint(client: Any, run: Any, folder: str) -> None:
    """The run of this checkpoint now lies in `folder`."""
    query = f"source_run_id = '{run.info.run_id}'"
    for model in client.search_logged_models([run.info.experiment_id], query):
        client.set_logged_model_tags(model.model_id, {PLACE: f"{folder}/checkpoint"})


def _make(client: Any, run: Any, path: Path, step: int) -> Any:
    tags = {EXTERNAL: "true", PLACE: str(path / "checkpoint")}
    params, run_id = {"best_step": str(step)}, run.info.run_id
    return client.create_logged_model(run.info.experiment_id, NAME, run_id, tags, params)
