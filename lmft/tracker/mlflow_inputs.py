"""Show the corpora of a run as datasets of MLflow."""

import json
from typing import Any

from lmft.tracker.run_log import Corpus

DIGEST_SIZE = 36  # characters; MLflow's limit


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


def _corpora(facts: dict[str, Any]) -> list[Corpus]:
    """Return the corpora in a run's facts; earlier versions wrote that of training alone."""
    earlier = []
    if "corpus" in facts:
        earlier = [Corpus(facts["corpus"], "train", facts["corpus_digest"], "")]
    return [Corpus(**corpus) for corpus in facts.get("corpora", [])] + earlier
