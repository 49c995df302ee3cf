"""One open MLflow run: its points travel together."""

import time
from dataclasses import dataclass
from typing import Any

FLUSH_SECONDS = 5.0
FLUSH_POINTS = 1000  # the most that a REST call takes
PARAM_SIZE = 6000  # characters; MLflow's limit


@dataclass(frozen=True)
class Corpus:
    """The dataset input of a run, as MLflow shows it."""

    name: str
    digest: str


class MlflowLog:
    """One open run; its metric points wait a few seconds so that many travel together."""

    def __init__(self, client: Any, run_id: str):
        self.run_id = run_id
        self._client = client
        self._points: list[Any] = []
        self._sent = time.monotonic()

    def describe(self, params: dict[str, Any], corpus: Corpus) -> None:
        """Log what the run is made of."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        texts = [Param(key, str(value)[:PARAM_SIZE]) for key, value in params.items()]
        for start in range(0, len(texts), 100):  # the most that a REST call takes
            self._client.log_batch(self.run_id, params=texts[start : start + 100])
        dataset = Dataset(corpus.name, corpus.digest[:36], "code", "{}")
        tags = [InputTag("mlflow.data.context", "train")]
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Note `values`; they are sent when enough have gathered or a few seconds have passed."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._points += [Metric(key, value, now, step) for key, value in values.items()]
        late = time.monotonic() - self._sent > FLUSH_SECONDS
        if late or len(self._points) >= FLUSH_POINTS:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        for start in range(0, len(self._points), FLUSH_POINTS):
            self._client.log_batch(self.run_id, metrics=self._points[start : start + FLUSH_POINTS])
        self._points = []
        self._sent = time.monotonic()

    def text(self, text: str, file_name: str) -> None:
        """Keep `text` as an artifact."""
        self._client.log_text(self.run_id, text, file_name)

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)
