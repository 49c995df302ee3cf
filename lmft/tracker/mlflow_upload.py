"""One run in MLflow, which is made to hold what the run's folder holds."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

from lmft.tracker.mlflow_model import move_checkpoint, show_checkpoint
from lmft.tracker.mlflow_store import SENT, find_own, load_mlflow
from lmft.tracker.mlflow_sweep import JOINED, adopt, knows_run
from lmft.tracker.run_log import POINTS, find_texts, read_facts, read_points

SEND_LINES = 100  # of metrics.jsonl a call; a REST call takes at most 1000 points

PARAM_SIZE = 6000  # characters; MLflow's limit

Place = tuple[str, str]  # a sweep's id, and the run's name there


class RunUpload:
    """A run in the store that is made to hold what its folder holds.

    All is read from the folder and may be sent again: points go with the time at which they were
    noted, so that the store takes those it has for the same. After an error, it is asked anew.
    """

    def __init__(self, connect: Callable[[], tuple[Any, str]], path: Path, job: Place | None):
        """Nothing is sent yet.

        Args:
            connect: gives the client, and the id of the experiment.
            path: the run's folder.
            job: the sweep that it is part of.
        """
        self._connect = connect
        self._client: Any = None
        self._path = path
        self._job = job
        self._old = _stamps(path)  # texts that were there before
        self._sent = 0  # bytes of metrics.jsonl
        self.heard = math.inf  # when the store answered last, on the monotonic clock
        self.points = 0  # sent from here; those it had already count too

    def update(self, live: bool) -> None:
        """Send what the store lacks of the folder; a run that is `live` is RUNNING there.

        Raises:
            Exception: the store does not take it; `forget` before the next try.
        """
        if self._client is None:
            self._open()
        if live:
            self._set_status("RUNNING")
        self._send_points()
        self._send_tags(self._facts()["tags"])
        self._send_texts()

    def end(self, status: str) -> None:
        """Say how the run ended, all else being sent; what has FINISHED shows its checkpoint."""
        if status == "FINISHED":
            show_checkpoint(self._client, self.run_id, self._path)
        self._set_status(status)

    def forget(self) -> None:
        """What the store has must be asked anew: an answer may have been lost."""
        self._client = None

    def waiting(self) -> int:
        """Points in the folder that are not known to be in the store."""
        return sum(len(line.metrics) for line in read_points(self._path, self._sent))

    def _facts(self) -> dict[str, Any]:
        facts = read_facts(self._path)
        facts["tags"]["lmft.folder"] = str(self._path)  # where it lies now, if it was moved
        return facts

    def _open(self) -> None:
        """Find the run of this folder, or make it, and tell what it is made of."""
        load_mlflow()  # takes seconds, in which nobody waits for the store
        self.heard = min(self.heard, time.monotonic())
        client, experiment = self._connect()
        self.heard = time.monotonic()
        facts = self._facts()
        run = find_own(client, self._path, facts["tags"]) or self._make(client, experiment, facts)
        self.run_id: str = run.info.run_id
        self._status = run.info.status
        self._sent = int(run.data.tags.get(SENT, 0))
        self._tags: dict[str, str] = {}
        if run.data.tags.get("lmft.folder") != str(self._path):
            move_checkpoint(client, run, str(self._path))
        self._describe(client, facts, run)
        known = {found.path: found.file_size for found in client.list_artifacts(self.run_id)}
        self._texts = {
            name: stamp for name, stamp in self._old.items() if known.get(name) == stamp[1]
        }
        job = self._job or (facts["tags"].get(JOINED, ""), facts["name"])
        if knows_run(client, job[0]):
            adopt(client, str(self._path), *job)
        self._client = client

    def _send_points(self) -> None:
        from mlflow.entities import Metric, RunTag

        for lines in in_chunks(self._safe_points(), SEND_LINES):
            points = [
                Metric(key, value, line.time, line.step)
                for line in lines
                for key, value in line.metrics.items()
            ]
            tags = [RunTag(SENT, str(lines[-1].end))]
            self._client.log_batch(self.run_id, metrics=points, tags=tags)
            self._sent = lines[-1].end
            self.points += len(points)
            self.heard = time.monotonic()

    def _safe_points(self) -> Iterator[Any]:
        """Those to be sent, safe on disk: what is lost there would be noted, and sent, again."""
        place = self._path / POINTS
        if not place.exists():
            return iter(())
        with place.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        return takewhile(lambda line: line.end <= size, read_points(self._path, self._sent))

    def _send_tags(self, tags: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        now = {key: str(value) for key, value in tags.items()}
        new = [RunTag(key, value) for key, value in now.items() if self._tags.get(key) != value]
        if new:
            self._client.log_batch(self.run_id, tags=new)
            self._tags |= now
            self.heard = time.monotonic()

    def _send_texts(self) -> None:
        for name, stamp in _stamps(self._path).items():
            if self._texts.get(name) != stamp:
                text = next(text for text in find_texts(self._path) if text.name == name)
                self._client.log_artifact(self.run_id, str(text))
                self._texts[name] = stamp
                self.heard = time.monotonic()

    def _set_status(self, status: str) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            self._client.update_run(self.run_id, status)
        else:
            self._client.set_terminated(self.run_id, status)
        self._status = status

    def _make(self, client: Any, experiment: str, facts: dict[str, Any]) -> Any:
        first = next(read_points(self._path), None)
        return client.create_run(
            experiment,
            start_time=None if first is None else first.time,
            tags=facts["tags"],
            run_name=facts["name"],
        )

    def _describe(self, client: Any, facts: dict[str, Any], run: Any) -> None:
        """Say what the run is made of: all of it again, since a kill may have cut it short."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
        from mlflow.exceptions import MlflowException

        params = (Param(key, str(value)[:PARAM_SIZE]) for key, value in facts["params"].items())
        for some in in_chunks(params, 100):  # the most that a REST call takes
            client.log_batch(self.run_id, params=some)
        if not run.inputs.dataset_inputs:
            dataset = Dataset(facts["corpus"], facts["corpus_digest"][:36], "code", "{}")
            tags = [InputTag("mlflow.data.context", "train")]
            inputs = [DatasetInput(dataset, tags)]
            try:
                client.log_inputs(self.run_id, inputs)
            except MlflowException:  # another run had just put the same dataset into the store
                client.log_inputs(self.run_id, inputs)
        client.log_batch(self.run_id, tags=[RunTag("lmft.folder", facts["tags"]["lmft.folder"])])


def _stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Of each text in the folder, by name: when it was written, and its size in bytes."""
    found = {text.name: text.stat() for text in find_texts(path)}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


T = TypeVar("T")


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The same items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
