"""Upload a run to the MLflow store from a background thread, so that training never waits."""

import logging
import threading
import time

from lmft.tracker.mlflow_errors import diagnose, short_reason
from lmft.tracker.mlflow_system import SystemMonitor
from lmft.tracker.mlflow_upload import RunUpload
from lmft.tracker.run_log import Record

logger = logging.getLogger(__name__)


UPLOAD_INTERVAL = 5.0  # seconds between two uploads, also after a failed one
REFUSED_INTERVAL = 600.0  # seconds between two uploads to a store that refuses them
MAX_REFUSALS = 3  # in a row; a run that someone has deleted in MLflow is created at the next one
RETRY_INTERVAL = 1.0  # seconds between two attempts when the run has ended
GIVE_UP_AFTER = 40.0  # seconds without a confirmed write after which a run's end waits no longer
_unavailable: set[str] = set()  # stores that this process makes only one attempt at when a run ends


def mark_unavailable(uri: str) -> None:
    """Let no run of this process wait for that store when it ends, until it answers again."""
    _unavailable.add(uri)


class BackgroundUpload:
    """A RunLog that writes to the run's folder at once and uploads the folder every few seconds."""

    def __init__(
        self, upload: RunUpload, record: Record, uri: str, monitor: SystemMonitor | None = None
    ):
        """Start the thread.

        Args:
            upload: of the run.
            record: of the run.
            uri: of the store.
            monitor: to run until the run ends; None: no system metrics.
        """
        self._upload = upload
        self._record = record
        self._uri = uri
        self._monitor = monitor
        self._status: str | None = None  # once the run has ended
        self._failure: Exception | None = None  # of the last attempt
        self._refusals = 0  # in a row, by a store that answers
        self._given_up = False
        self._wake = threading.Event()
        # A daemon, so that a store that hangs can't keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="lmft-upload", daemon=True)
        self._thread.start()

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """Log `values` to the record; they are uploaded within seconds."""
        self._record.log_metrics(values, step)

    def log_text(self, text: str, file_name: str) -> None:
        """Write `text` to the run's folder; it is uploaded as an artifact."""
        self._record.log_text(text, file_name)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Add or change tags of the run."""
        self._record.set_tags(tags)

    def flush(self) -> None:
        """Write all metrics to disk, so that they survive a power loss."""
        self._record.flush()

    def finish(self, status: str) -> None:
        """Upload the rest and the final `status`; give up if the store takes nothing more."""
        called = time.monotonic()
        self._status = status
        self._wake.set()
        while self._thread.is_alive() and not self._has_timed_out(called):
            self._thread.join(0.1)
        self._given_up = True  # a thread that hangs in a request stops after it
        if not self._thread.is_alive() and self._failure is None:
            return
        mark_unavailable(self._uri)
        logger.warning(
            "%s points of %s wait in its folder; once %s takes them, lmft sync %s sends them.",
            f"{self._upload.count_pending():,}",
            self._record.path.name,
            self._uri,
            self._record.path.name,
        )

    def _run(self) -> None:
        while not self._given_up:
            ended = self._wake.wait(REFUSED_INTERVAL if self._is_refused else UPLOAD_INTERVAL)
            status = self._status
            try:
                if status is not None and self._monitor is not None:
                    self._monitor.stop()
                self._upload.update(live=status is None)
                if status is not None:
                    self._upload.end(status)
                elif self._monitor is not None:
                    self._monitor.keep_running(self._upload.run_id)
                self._report(None)
                if status is not None:
                    return
            except Exception as error:
                self._upload.reset()
                self._report(error)
                if status is not None and self._is_hopeless:
                    return
                if ended:  # the event stays set, so the wait above returns at once
                    time.sleep(RETRY_INTERVAL)

    @property
    def _is_refused(self) -> bool:
        return self._refusals >= MAX_REFUSALS

    @property
    def _is_hopeless(self) -> bool:
        return self._is_refused or self._uri in _unavailable or self._has_timed_out(0.0)

    def _has_timed_out(self, since: float) -> bool:
        """Return whether the store has taken nothing for too long, counted from `since` or later.

        Args:
            since: on the monotonic clock.
        """
        return time.monotonic() - max(self._upload.last_write, since) > GIVE_UP_AFTER

    def _report(self, failure: Exception | None) -> None:
        """Log the first failure in a row, and the first success after failures."""
        before, self._failure = self._failure, failure
        is_refusal = failure is not None and diagnose(failure).is_refusal
        self._refusals = self._refusals + 1 if is_refusal else 0
        if failure is None:
            _unavailable.discard(self._uri)
            if before is not None:
                logger.warning("%s answers again and has all points so far.", self._uri)
        elif before is None:
            logger.warning(
                "%s does not accept the upload (%s); points wait in the run's folder.",
                self._uri,
                short_reason(failure),
            )
