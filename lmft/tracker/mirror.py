"""One run in MLflow, which follows the record in its folder."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from lmft.record import Record, find_texts, read_facts, read_points
from lmft.secrets import redact
from lmft.tracker.checkpoint import show_checkpoint
from lmft.tracker.store import find_mirror
from lmft.tracker.sweep import adopt

FLUSH_SECONDS = 5.0
FLUSH_LINES = 100  # of metrics.jsonl a call; a REST call takes at most 1000 points
PARAM_SIZE = 6000  # characters; MLflow's limit
Place = tuple[str, str]  # a sweep's id, and the run's name there
SENT = "lmft.sent"  # a tag: bytes of metrics.jsonl that the store has


class Mirror:
    """A run in the store that is made to hold what its record holds.

    Points are sent with the time at which they were noted, so that the store takes those that are
    sent again for the same.
    """

    def __init__(self, connect: Callable[[], tuple[Any, str]], record: Record, job: Place | None):
        """Nothing is sent yet: that takes seconds, in which a run can begin.

        Args:
            connect: gives the client, and the id of the experiment.
            record: of the run.
            job: the sweep that it is part of.
        """
        self._connect = connect
        self._client: Any = None
        self._record = record
        self._job = job
        self._texts: set[str] = set()  # kept before the store was opened
        self._flushed = time.monotonic()

    def open(self) -> None:
        """Find the run of this record, or make it, and tell what it is made of."""
        self._client, experiment = self._connect()
        folder, facts = str(self._record.path), read_facts(self._record.path)
        facts["tags"]["lmft.folder"] = folder  # where it lies now, if it was moved
        run = find_mirror(self._client, folder) or self._make(experiment, facts)
        self.run_id: str = run.info.run_id
        self._status = run.info.status
        self._sent = int(run.data.tags.get(SENT, 0))
        self._describe(facts, run)
        if self._job is not None:
            adopt(self._client, folder, *self._job)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`; every few seconds, all that was noted is sent."""
        self._record.metrics(values, step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def text(self, text: str, file_name: str) -> None:
        """Keep `text`, also as an artifact."""
        self._record.text(text, file_name)
        if self._client is None:
            self._texts.add(file_name)
        else:
            self._client.log_artifact(self.run_id, str(self._record.path / file_name))

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        self._record.tags(tags)
        if self._client is not None:
            self._set_tags(tags)

    def sync(self) -> None:
        """Let the points survive a loss of power."""
        self._record.sync()

    def flush(self) -> None:
        """Send what was noted since the last time; it is safe on disk before that."""
        if self._client is None:
            self.open()
            self.set_status("RUNNING")
        from mlflow.entities import Metric, RunTag

        self._record.sync()
        for lines in in_chunks(read_points(self._record.path, self._sent), FLUSH_LINES):
            points = [
                Metric(key, value, line.time, line.step)
                for line in lines
                for key, value in line.metrics.items()
            ]
            tags = [RunTag(SENT, str(lines[-1].end))]
            self._client.log_batch(self.run_id, metrics=points, tags=tags)
            self._sent = lines[-1].end
        self._flushed = time.monotonic()

    def set_status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED; what has FINISHED shows its checkpoint."""
        if status == "FINISHED":
            show_checkpoint(self._client, self.run_id, self._record)
        if status == self._status:
            return
        if status == "RUNNING":
            self._client.update_run(self.run_id, status)
        else:
            self._client.set_terminated(self.run_id, status)
        self._status = status

    def _make(self, experiment: str, facts: dict[str, Any]) -> Any:
        first = next(read_points(self._record.path), None)
        return self._client.create_run(
            experiment,
            start_time=None if first is None else first.time,
            tags=facts["tags"],
            run_name=facts["name"],
        )

    def _describe(self, facts: dict[str, Any], run: Any) -> None:
        """Say what the run is made of: all of it again, since a kill may have cut it short."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param
        from mlflow.exceptions import MlflowException

        params = (Param(key, str(value)[:PARAM_SIZE]) for key, value in facts["params"].items())
        for some in in_chunks(params, 100):  # the most that a REST call takes
            self._client.log_batch(self.run_id, params=some)
        if not run.inputs.dataset_inputs:
            dataset = Dataset(facts["corpus"], facts["corpus_digest"][:36], "code", "{}")
            tags = [InputTag("mlflow.data.context", "train")]
            inputs = [DatasetInput(dataset, tags)]
            try:
                self._client.log_inputs(self.run_id, inputs)
            except MlflowException:  # another run had just put the same dataset into the store
                self._client.log_inputs(self.run_id, inputs)
        self._set_tags(facts["tags"])
        known = {artifact.path for artifact in self._client.list_artifacts(self.run_id)}
        for text in find_texts(self._record.path):
            if text.name not in known - self._texts:
                self._client.log_artifact(self.run_id, str(text))

    def _set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, redact(str(value))) for key, value in tags.items()]
        self._client.log_batch(self.run_id, tags=new)


T = TypeVar("T")


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The same items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
