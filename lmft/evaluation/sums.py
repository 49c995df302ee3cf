"""The nats and targets of each document and block behind a result, and the file that keeps them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmft.evaluation.bootstrap import Interval, bootstrap_interval
from lmft.evaluation.result import Result
from lmft.storage.atomic import new_file

if TYPE_CHECKING:
    from lmft.evaluation.scoring import Scores
    from lmft.evaluation.token_bytes import Spans


@dataclass(frozen=True)
class Sums:
    """Nats and targets of each document or block."""

    nats: np.ndarray  # (D,) float64
    targets: np.ndarray  # (D,) int64
    bytes: np.ndarray  # (D,) int64; all 0 if unknown

    def interval(self) -> Interval | None:
        """Return the interval of the mean loss; None for fewer than two documents or blocks."""
        if int((self.targets > 0).sum()) < 2:
            return None
        return bootstrap_interval(self.nats, self.targets)


def sum_by(units: np.ndarray, count: int, scores: "Scores", spans: "Spans | None") -> Sums:
    """Sum scores over the targets of each of `count` documents or blocks.

    `units` (M,) is the number of the document or block of each target.
    """
    covered = np.zeros(len(units)) if spans is None else spans.bytes[scores.positions]
    return Sums(
        np.bincount(units, scores.nats, minlength=count),
        np.bincount(units, minlength=count),
        np.bincount(units, covered, minlength=count).astype(np.int64),
    )


@dataclass(frozen=True)
class Assessment:
    """A result, and the sums by document and by block behind it."""

    result: Result
    sums: dict[str, Sums]  # by unit: document, block


def sums_path(folder: Path, fingerprint: str, precision: str) -> Path:
    """Return the path of the sums behind a result."""
    return folder / f"sums-{fingerprint[:8]}-{precision}.parquet"


def write_sums(folder: Path, assessment: Assessment) -> None:
    """Write the sums by document and by block, so that comparing needs no second evaluation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        pa.table(
            {
                "unit": [unit] * len(sums.nats),
                "number": np.arange(len(sums.nats)),
                "nats": sums.nats,
                "targets": sums.targets,
                "bytes": sums.bytes,
            }
        )
        for unit, sums in assessment.sums.items()
    ]
    fingerprint = assessment.result.conditions.fingerprint
    table = pa.concat_tables(tables).replace_schema_metadata({"fingerprint": fingerprint})
    with new_file(sums_path(folder, fingerprint, assessment.result.precision)) as path:
        pq.write_table(table, path)


def read_sums(folder: Path, result: dict[str, Any], unit: str) -> Sums:
    """Read the sums that `write_sums` wrote, by `unit`: document or block."""
    import pyarrow.parquet as pq

    path = sums_path(folder, result["fingerprint"], result["precision"])
    table = pq.read_table(path, filters=[("unit", "==", unit)])
    return Sums(*(table[name].to_numpy() for name in ("nats", "targets", "bytes")))
