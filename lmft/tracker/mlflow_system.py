"""Log the load of processor, memory, disk, network and GPU, by MLflow's own monitor."""

import logging
import os
from typing import Any

ENVIRONMENT = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own


def is_asked_for() -> bool:
    """Return whether MLflow's environment asks for system metrics."""
    return os.environ.get(ENVIRONMENT, "").lower() in ("true", "1")


class SystemMonitor:
    """Samples every 10 s in a thread of its own, and sends `system/` metrics to the store.

    They are not in the run's folder: they describe the machine, and what an outage loses is lost.
    """

    def __init__(self, uri: str):
        self._uri = uri
        self._monitor: Any = None

    def keep_running(self, run_id: str) -> None:
        """Start the monitor, also after an outage, which ends it; steps go on from the last one."""
        from mlflow.system_metrics import system_metrics_monitor as module

        logging.getLogger(module.__name__).setLevel(logging.CRITICAL)  # the uploads report outages
        if self._monitor is None or not self._monitor._process.is_alive():
            self._monitor = module.SystemMetricsMonitor(
                run_id, resume_logging=True, tracking_uri=self._uri
            )
            self._monitor.start()

    def stop(self) -> None:
        """Stop the monitor, and send what it has."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
