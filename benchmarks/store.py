"""Storage of the measurements, row by row, so that an interrupted benchmark can resume."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.machine import commit, hardware, versions


class Store:
    """The file bench.json: the measured rows of each commit, machine and set of versions."""

    def __init__(self, path: Path):
        self.path = path
        self.context: dict[str, Any] = {
            "commit": commit(), "hardware": hardware(), "versions": versions(),
        }  # fmt: skip
        self._benches = json.loads(path.read_text()) if path.exists() else []
        for bench in self._benches:
            if all(bench[key] == value for key, value in self.context.items()):
                self._rows: dict[str, Any] = bench["rows"]
                return
        self._rows = {}
        self._benches.append(self.context | {"rows": self._rows})

    def has(self, name: str, pairs: int) -> bool:
        """Return whether the row is stored for the current context with at least `pairs` pairs."""
        return name in self._rows and self._rows[name]["pairs"] >= pairs

    def put(self, name: str, pairs: int, figures: list[Figure]) -> None:
        """Store a row; it replaces an older measurement."""
        found = [figure.as_json() for figure in figures]
        self._rows[name] = {"measured": time.strftime("%F %T"), "pairs": pairs, "figures": found}
        self.path.parent.mkdir(exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._benches, indent=1) + "\n")
        new.replace(self.path)

    def rows(self) -> dict[str, tuple[int, list[Figure]]]:
        """Return the number of pairs and the figures of each row of the current context."""
        return {
            name: (row["pairs"], [Figure.from_json(figure) for figure in row["figures"]])
            for name, row in self._rows.items()
        }
