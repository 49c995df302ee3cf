"""Where the numbers of a run are shown: MLflow, or nowhere but in its folder."""

from lmft.tracker.in_mlflow import MlflowTracker
from lmft.tracker.nowhere import NoTracker
from lmft.tracker.protocol import RunLog, Tracker
from lmft.tracker.store import folder_of, open_client, store_uri

__all__ = [
    "MlflowTracker",
    "NoTracker",
    "RunLog",
    "Tracker",
    "folder_of",
    "open_client",
    "store_uri",
]
