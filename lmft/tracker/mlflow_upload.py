"""Upload one run to an MLflow store from its folder."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from lmft.tracker.mlflow_errors import diagnose, load_mlflow, short_reason
from lmft.tracker.mlflow_inputs import in_chunks, send_params
from lmft.tracker.mlflow_model import ModelLogging, ModelNotSaved, move_checkpoint
from lmft.tracker.mlflow_store import SENT_TAG, UNSENT_TAG, match_run
from lmft.tracker.mlflow_sweep import FIRST_SWEEP_TAG, add_to_sweep, has_run
from lmft.tracker.protocol import SweepEntry
from lmft.tracker.run_log import POINTS, Points, find_texts, read_facts, read_points

logger = logging.getLogger(__name__)

LINES_PER_CALL = 100  # of metrics.jsonl; a REST call takes at most 1000 points
VERSION = "version."  # how the tags of packages begin
REFUSED = "The store has the run's metrics, but not its %s (%s); lmft sync %s tries again."


class RunUpload:
    """Sends to the store what it lacks of a run's folder.

    Everything is read from the folder and can be sent again without harm: points keep the time at
    which they were logged, and the store drops duplicates. After an error, it is queried again for
    what it has.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Any, str]],
        path: Path,
        entry: SweepEntry | None,
        model_logging: ModelLogging,
    ):
        """Send nothing yet.

        Args:
            connect: returns the client, and the id of the experiment.
            path: the run's folder.
            entry: the sweep that it is part of.
            model_logging: how its weights are logged.
        """
        self._connect = connect
        self._model_logging = model_logging
        self._client: Any = None
        self._path = path
        self._entry = entry
        self._initial_texts = _file_versions(path)
        self._sent = 0  # bytes of metrics.jsonl
        self.last_write = math.inf  # that the store has confirmed, on the monotonic clock
        self._reported: set[str] = set()  # what the store refuses
        self.points_sent = 0  # including those that the store already had

    def update(self, live: bool) -> None:
        """Send what the store lacks; with `live`, the run is RUNNING there.

        Raises:
            Exception: the store did not take it; call `reset` before the next attempt.
        """
        if self._client is None:
            self._open()
        if live:
            self._set_status("RUNNING")
        self._send_points()
        self._send_tags(self._read_facts()["tags"])
        self._send_texts()

    def end(self, status: str) -> None:
        """Set the final status after the last update; a run that has FINISHED gets its model."""
        if status == "FINISHED":
            with self._may_be_refused("model"), self._without_limit():
                in_sweep = self._entry is not None or FIRST_SWEEP_TAG in self._tags
                self._model_logging.log(self._client, self.run_id, self._path, in_sweep)
        self._set_status(status)

    def reset(self) -> None:
        """Query the store again before the next update: a response may have been lost."""
        self._client = None

    def count_pending(self) -> int:
        """Return the number of points in the folder that the store has not confirmed."""
        return sum(len(line.metrics) for line in read_points(self._path, self._sent))

    def _read_facts(self) -> dict[str, Any]:
        facts = read_facts(self._path)
        tags = join_versions(facts["tags"])
        return {**facts, "tags": {**tags, "lmft.folder": str(self._path)}}  # it may have been moved

    def _open(self) -> None:
        """Connect; find the folder's run or create it; send its params; read what it has."""
        load_mlflow()  # takes seconds, which must not count as waiting for the store
        self.last_write = min(self.last_write, time.monotonic())
        client, experiment = self._connect()
        facts = self._read_facts()
        run = match_run(client, self._path, facts["tags"])
        if run is None:
            run = self._create_run(client, experiment, facts)
        self.run_id: str = run.info.run_id
        self._status = run.info.status
        self._sent = int(run.data.tags.get(SENT_TAG, 0))
        self._tags: dict[str, str] = {}
        if run.data.tags.get("lmft.folder") != str(self._path):
            move_checkpoint(client, run, str(self._path))
        send_params(client, run, facts)
        self._texts = self._find_sent_texts(client)
        self._refused = set(run.data.tags.get(UNSENT_TAG, "").split())
        entry = self._entry or (facts["tags"].get(FIRST_SWEEP_TAG, ""), facts["name"])
        if has_run(client, entry[0]):
            add_to_sweep(client, str(self._path), *entry)
        self._client = client

    def _send_points(self) -> None:
        from mlflow.entities import Metric, RunTag

        for lines in in_chunks(self._durable_points(), LINES_PER_CALL):
            points = [
                Metric(key, value, line.time, line.step)
                for line in lines
                for key, value in line.metrics.items()
            ]
            tags = [RunTag(SENT_TAG, str(lines[-1].end))]
            self._client.log_batch(self.run_id, metrics=points, tags=tags)
            self._sent = lines[-1].end
            self.points_sent += len(points)
            self.last_write = time.monotonic()

    def _durable_points(self) -> Iterator[Points]:
        """Flush metrics.jsonl and yield the points to send.

        A point that was sent but lost on disk would be logged and sent a second time.
        """
        file_path = self._path / POINTS
        if not file_path.exists():
            return iter(())
        with file_path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        return takewhile(lambda line: line.end <= size, read_points(self._path, self._sent))

    def _send_tags(self, tags: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        now = {key: str(value) for key, value in tags.items()}
        changed = [RunTag(key, value) for key, value in now.items() if self._tags.get(key) != value]
        if changed:
            self._client.log_batch(self.run_id, tags=changed)
            self._tags |= now
            self.last_write = time.monotonic()

    def _find_sent_texts(self, client: Any) -> dict[str, tuple[int, int]]:
        """Return the text files of an earlier start that the store has, by their version."""
        try:
            artifacts = client.list_artifacts(self.run_id)
        except Exception as error:
            if not diagnose(error).is_refusal:
                raise
            artifacts = []
        sizes = {artifact.path: artifact.file_size for artifact in artifacts}
        versions = self._initial_texts.items()
        return {name: version for name, version in versions if sizes.get(name) == version[1]}

    def _send_texts(self) -> None:
        """Send the text files that changed."""
        with self._may_be_refused("files"):
            for name, version in _file_versions(self._path).items():
                if self._texts.get(name) != version:
                    file = next(file for file in find_texts(self._path) if file.name == name)
                    self._client.log_artifact(self.run_id, str(file))
                    self._texts[name] = version
                    self.last_write = time.monotonic()

    @contextmanager
    def _may_be_refused(self, what: str) -> Iterator[None]:
        """Within, send what a store may refuse while it takes all else.

        The run is tagged then, so that it counts as incomplete and the next upload tries again.
        """
        try:
            yield
        except Exception as error:
            if not (isinstance(error, ModelNotSaved) or diagnose(error).is_refusal):
                raise
            self._set_refused(self._refused | {what})
            if what not in self._reported:
                self._reported.add(what)
                logger.warning(REFUSED, what, short_reason(error), self._path.name)
        else:
            self._set_refused(self._refused - {what, "artifacts"})  # so said an earlier lmft

    def _set_refused(self, refused: set[str]) -> None:
        if refused == self._refused:
            return
        if refused:
            self._client.set_tag(self.run_id, UNSENT_TAG, " ".join(sorted(refused)))
        else:
            self._client.delete_tag(self.run_id, UNSENT_TAG)
        self._refused = refused

    @contextmanager
    def _without_limit(self) -> Iterator[None]:
        """Within, a large file may take its time: each request has a limit of its own."""
        before, self.last_write = self.last_write, math.inf
        try:
            yield
            before = time.monotonic()
        finally:
            self.last_write = before

    def _set_status(self, status: str) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            self._client.update_run(self.run_id, status)
        else:
            self._client.set_terminated(self.run_id, status)
        self._status = status

    def _create_run(self, client: Any, experiment: str, facts: dict[str, Any]) -> Any:
        first = next(read_points(self._path), None)
        return client.create_run(
            experiment,
            start_time=None if first is None else first.time,
            tags=facts["tags"],
            run_name=facts["name"],
        )


def join_versions(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags with those of the packages' versions, `version.NAME`, joined to one."""
    found = {tag.removeprefix(VERSION): tags[tag] for tag in tags if tag.startswith(VERSION)}
    others = {tag: value for tag, value in tags.items() if not tag.startswith(VERSION)}
    joined = ", ".join(f"{name} {number}" for name, number in found.items())
    return others | ({"versions": joined} if found else {})


def _file_versions(path: Path) -> dict[str, tuple[int, int]]:
    """Return modification time (ns) and size (bytes) of each text file in the folder, by name."""
    stats = {file.name: file.stat() for file in find_texts(path)}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}
