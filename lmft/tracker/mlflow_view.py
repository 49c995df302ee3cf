"""Create an experiment with the view that `lmft ui` opens: loss curves first, the best run on top.

Left to itself, MLflow orders charts by the name of the metric, so `notes-182da761/test` comes
before `train`. A view that is kept in a tag of the experiment, as the page's "Share" keeps one,
says which charts come first; those of all other metrics follow.
"""

import json
from typing import Any

from lmft.errors import UserError
from lmft.metrics import TRAIN_LOSS, VALIDATION_LOSS

KEY = "lmft"
TAG = f"mlflow.sharedViewState.{KEY}"
KIND_TAG = "mlflow.experimentKind"  # which page MLflow opens the experiment on
TRAINING = "custom_model_development"
ADDRESS = f"?compareRunsMode=CHART&viewStateShareKey={KEY}"  # after that of an experiment's runs
SECTION = "lmft-losses"


def default_tags() -> dict[str, str]:
    """Return the tags of an experiment, unless it has others."""
    return {KIND_TAG: TRAINING, TAG: json.dumps(_losses_first())}


def _losses_first() -> dict[str, Any]:
    """Return the view in the words of MLflow's page. Sorted runs are not nested in sweeps."""
    section = {"uuid": SECTION, "name": "losses", "display": True, "isGenerated": True}
    return {
        "orderByKey": f"metrics.`{VALIDATION_LOSS}`",
        "orderByAsc": True,
        "compareRunCharts": [_line_chart(TRAIN_LOSS), _line_chart(VALIDATION_LOSS)],
        "compareRunSections": [section | {"isReordered": True, "deleted": False}],
        "isAccordionReordered": True,  # or the page would sort all sections by name
    }


def _line_chart(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": f"lmft-{metric}",
        "metricSectionId": SECTION,
        "metricKey": metric,
        "displayName": metric,
        "isGenerated": True,  # so that the page adds no second one
        "deleted": False,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def open_experiment(client: Any, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment `name`, which is created if it is new.

    Args:
        client: of the store.
        name: of the experiment.
        artifacts: where the files of a new one go; None: where the store says.

    Raises:
        UserError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifacts, default_tags()))
        except MlflowException:  # another process was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracker.experiment_name is {name!r}, which was deleted in MLflow; restore it there, "
            "or choose another name."
        )
    return str(experiment.experiment_id)
