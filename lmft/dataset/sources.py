"""Where a corpus comes from: Python's own documentation, files, or the hub."""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lmft.config.schema import TextErrors
from lmft.dataset.readers import OPENERS, READERS, TextFile, format_of, readable
from lmft.errors import UserError
from lmft.storage.hashing import digest, digest_files
from lmft.storage.hub import hub_errors, resolve_commit

VALIDATION_TOPICS = 20

READING = 2  # of files; raised with each change of what text is read from the same bytes


@dataclass(frozen=True)
class Rows:
    """Rows that belong together, as those of one file do; read anew by each call of `read`."""

    read: Callable[[], Iterator[str]]
    rule: str  # what makes a document of them where dataset.document=auto


class Source(Protocol):
    """A corpus that can say what is in it."""

    def parts(self, where: str) -> list[Rows]:
        """The rows of one split, file by file."""

    def digest(self, where: str) -> str:
        """A hash of that split's content."""


@dataclass(frozen=True)
class PythonDocs:
    """The documentation topics that every CPython carries: about 460 kB, one document a topic."""

    def parts(self, where: str) -> list[Rows]:
        """`train`, or the `validation` topics: those whose titles hash lowest."""
        return [Rows(lambda: iter(self._topics(where)), rule="row")]

    def digest(self, where: str) -> str:
        """A hash of the topics, which change with the Python version."""
        return digest(self._topics(where))

    def _topics(self, where: str) -> list[str]:
        from pydoc_data.topics import topics

        if where not in ("train", "validation"):
            raise UserError(
                f"dataset=python_docs has the splits train and validation, not {where!r}; add "
                "dataset=text_files for files of your own."
            )
        titles = sorted(topics, key=digest)
        chosen = titles[:VALIDATION_TOPICS] if where == "validation" else titles[VALIDATION_TOPICS:]
        return [topics[title] for title in sorted(chosen)]


@dataclass(frozen=True)
class TextFiles:
    """Files on disk: a path, a folder or a glob for each split."""

    text_column: str  # of records (.jsonl .json .csv .parquet)
    errors: TextErrors = TextErrors.strict

    def parts(self, where: str) -> list[Rows]:
        """The files' rows: lines of .txt and .md, records of the others."""
        return [
            Rows(
                TextFile(path, self.text_column, self.errors).rows,
                rule="file" if format_of(path) in (".txt", ".md") else "row",
            )
            for path in self._paths(where)
        ]

    def digest(self, where: str) -> str:
        """A hash of the files' contents, their formats, the column read, and how."""
        paths = self._paths(where)
        with readable(Path(where)):
            contents = digest_files(paths)
        # Strict reading refuses, and never changes, a text; so it need not be told apart.
        lenient = [self.errors.value] if self.errors is not TextErrors.strict else []
        return digest(
            [contents, [format_of(p) for p in paths], self.text_column, READING, *lenient]
        )

    def _paths(self, where: str) -> list[Path]:
        place = Path(where).expanduser()
        if place.is_file():
            paths = [place]
        elif place.is_dir():
            paths = [path for path in sorted(place.rglob("*")) if format_of(path) in READERS]
        else:
            paths = [Path(path) for path in sorted(glob.glob(str(place), recursive=True))]
        readable = [path for path in paths if path.is_file() and format_of(path) in READERS]
        if not readable:
            known = " ".join([*READERS, *OPENERS])
            reason = (
                f"holds nothing to read ({known})" if paths or place.exists() else "is not there"
            )
            raise UserError(f"{where!r} {reason}; give a file, a folder or a glob.")
        return readable


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face hub, pinned to the commit that `revision` names now."""

    name: str  # owner/name
    config: str | None
    revision: str
    text_column: str
    rule: str  # what dataset.document=auto stands for

    def parts(self, where: str) -> list[Rows]:
        """The rows of the hub's split `where`."""
        return [Rows(lambda: self._rows(where), self.rule)]

    def digest(self, where: str) -> str:
        """A hash of the commit and the names, so that nothing need be read."""
        commit = resolve_commit(self.name, self.revision, "dataset")
        return digest([self.name, self.config, commit, where, self.text_column])

    def _rows(self, where: str) -> Iterator[str]:
        import datasets

        commit = resolve_commit(self.name, self.revision, "dataset")
        with hub_errors(f"dataset {self.name!r}"):
            table = datasets.load_dataset(self.name, self.config, split=where, revision=commit)
        if self.text_column not in table.column_names:
            raise UserError(
                f"dataset.text_column is {self.text_column!r}, but {self.name} has "
                f"{', '.join(table.column_names)}; set dataset.text_column to one of them."
            )
        for page in table.select_columns(self.text_column).with_format("arrow").iter(1000):
            for text in page[self.text_column].to_pylist():
                yield text or ""
