"""What carries a run's folder to the store, beside the run: it waits for nothing of it."""

import logging
import threading
import time

from lmft.tracker.mlflow_store import reason_of
from lmft.tracker.mlflow_upload import RunUpload
from lmft.tracker.run_log import Record

logger = logging.getLogger(__name__)


SEND_SECONDS = 5.0  # between two sendings, also where the last one failed

AGAIN_SECONDS = 1.0  # between two tries at the end of a run

PATIENCE = 40.0  # seconds without an answer after which the end of a run waits no longer

_silent: set[str] = set()  # stores that this process has given up on; one try is enough for them


def give_up(uri: str) -> None:
    """No run of this process waits for that store at its end, until it answers again."""
    _silent.add(uri)


class BackgroundUpload:
    """Notes go to the folder at once, and from there to the store, by a thread of its own."""

    def __init__(self, mirror: RunUpload, record: Record, uri: str):
        self._mirror = mirror
        self._record = record
        self._uri = uri
        self._status: str | None = None  # once the run has ended
        self._failure: Exception | None = None  # of the last try
        self._given_up = False
        self._wake = threading.Event()
        # A daemon: where the store lets it hang, it may not keep the process from ending.
        self._thread = threading.Thread(target=self._send, name="lmft-sender", daemon=True)
        self._thread.start()

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`; they are sent within seconds."""
        self._record.metrics(values, step)

    def text(self, text: str, file_name: str) -> None:
        """Keep `text`, also as an artifact."""
        self._record.text(text, file_name)

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        self._record.tags(tags)

    def sync(self) -> None:
        """Let the points survive a loss of power."""
        self._record.sync()

    def finish(self, status: str) -> None:
        """The run has ended so; wait until the store knows, or has been silent for too long."""
        asked = time.monotonic()
        self._status = status
        self._wake.set()
        while self._thread.is_alive() and not self._is_hopeless(asked):
            self._thread.join(0.1)
        self._given_up = True  # where it hangs, it does nothing more once it goes on
        if not self._thread.is_alive() and self._failure is None:
            return
        give_up(self._uri)
        logger.warning(
            "%s points of %s wait in its folder; once %s answers, lmft sync %s sends them.",
            f"{self._mirror.waiting():,}",
            self._record.path.name,
            self._uri,
            self._record.path.name,
        )

    def _send(self) -> None:
        while not self._given_up:
            ended = self._wake.wait(SEND_SECONDS)
            status = self._status
            try:
                self._mirror.update(live=status is None)
                if status is not None:
                    self._mirror.end(status)
                self._note(None)
                if status is not None:
                    return
            except Exception as error:
                self._mirror.forget()
                self._note(error)
                if status is not None and (self._uri in _silent or self._is_hopeless(0.0)):
                    return
                if ended:  # nothing more will wake it
                    time.sleep(AGAIN_SECONDS)

    def _is_hopeless(self, since: float) -> bool:
        """Whether the store has been silent for too long, and at least from `since` on."""
        return time.monotonic() - max(self._mirror.heard, since) > PATIENCE

    def _note(self, failure: Exception | None) -> None:
        before, self._failure = self._failure, failure
        if failure is None:
            _silent.discard(self._uri)
            if before is not None:
                logger.warning("%s answers again, and has all points up to here.", self._uri)
        elif before is None:
            logger.warning(
                "%s does not take what it is sent (%s); the points wait in the folder of the run.",
                self._uri,
                reason_of(failure),
            )
