"""Where the numbers of a run are shown: MLflow, or nowhere but in its folder."""

from lmft.tracker.mlflow_store import folder_of, open_client, store_uri
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.protocol import NoTracker, RunLog, Tracker

__all__ = [
    "MlflowTracker",
    "NoTracker",
    "RunLog",
    "Tracker",
    "folder_of",
    "open_client",
    "store_uri",
]
