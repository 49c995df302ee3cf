"""The record of a run in its folder, and trackers that show it: MLflow, or none.

Configs name the tracker classes here by `_target_`.
"""

from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.protocol import NoTracker

__all__ = ["MlflowTracker", "NoTracker"]
