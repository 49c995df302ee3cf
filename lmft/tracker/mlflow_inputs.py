"""Show in MLflow the knobs of a run, its datasets, and the run that it continues."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from lmft.tracker.mlflow_model import find_model
from lmft.tracker.mlflow_store import find_run_by_id
from lmft.tracker.run_log import FROM_TAG, Corpus

FROM_RUN_TAG = "lmft.from_run_id"  # the MLflow run that this one continues
DIGEST_SIZE = 36  # characters; MLflow's limit
PARAM_SIZE = 6000  # characters; MLflow's limit
PARAMS_PER_CALL = 100  # the most that a REST call takes


def send_params(client: Any, run: Any, facts: dict[str, Any]) -> None:
    """Send params, datasets and folder: all of them again, in case a kill cut it short."""
    from mlflow.entities import Param, RunTag
    from mlflow.exceptions import MlflowException

    run_id = run.info.run_id
    values = {key: value for key, value in facts["params"].items() if value is not None}
    params = (Param(key, str(value)[:PARAM_SIZE]) for key, value in values.items())
    for chunk in in_chunks(params, PARAMS_PER_CALL):
        client.log_batch(run_id, params=chunk)
    inputs = missing_inputs(run, facts)
    if inputs:
        try:
            client.log_inputs(run_id, inputs)
        except MlflowException:  # another run has just inserted the same dataset
            client.log_inputs(run_id, inputs)
    link_source(client, run, facts["tags"])
    client.log_batch(run_id, tags=[RunTag("lmft.folder", facts["tags"]["lmft.folder"])])


def missing_inputs(run: Any, facts: dict[str, Any]) -> list[Any]:
    """Return the corpora in a run's facts that its MLflow run does not show, as inputs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known = {(shown.dataset.name, shown.dataset.digest) for shown in run.inputs.dataset_inputs}
    inputs = []
    for corpus in _corpora(facts):
        key = corpus.name, corpus.digest[:DIGEST_SIZE]
        if key not in known:  # a run has each dataset once
            known.add(key)
            dataset = Dataset(*key, "local", json.dumps({"uri": corpus.source}))
            context = "training" if corpus.split == "train" else corpus.split
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return inputs


def link_source(client: Any, run: Any, tags: dict[str, str]) -> None:
    """Link an MLflow run to that of the run which it continues, if the store has it.

    If it began with that run's best weights, the model that they are becomes an input.

    Args:
        client: of the store.
        run: the MLflow run.
        tags: of the folder's record.
    """
    source = find_run_by_id(client, tags[FROM_TAG]) if tags.get(FROM_TAG) else None
    if source is None or source.info.run_id == run.data.tags.get(FROM_RUN_TAG):
        return
    from mlflow.entities import LoggedModelInput

    if tags["lmft.from_weights"] == "best":
        model = find_model(client, source)
        inputs = [] if model is None else [LoggedModelInput(model.model_id)]
        client.log_inputs(run.info.run_id, models=inputs)
    client.set_tag(run.info.run_id, FROM_RUN_TAG, source.info.run_id)


def _corpora(facts: dict[str, Any]) -> list[Corpus]:
    """Return the corpora in a run's facts; earlier versions wrote that of training alone."""
    earlier = []
    if "corpus" in facts:
        earlier = [Corpus(facts["corpus"], "train", facts["corpus_digest"], "")]
    return [Corpus(**corpus) for corpus in facts.get("corpora", [])] + earlier


T = TypeVar("T")


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
