"""Sources of a corpus: Python's documentation, files, or a dataset of the Hugging Face Hub."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lmft.config.dataset_knobs import TextErrors
from lmft.dataset.files import Paths, find_files
from lmft.dataset.formats.columns import outer_name, text_of
from lmft.dataset.formats.compressed import readable
from lmft.dataset.formats.record import Reading, Record
from lmft.dataset.readers import (
    format_of,
    has_records,
    read_clean_records,
    read_names,
    read_rows,
)
from lmft.errors import UserError
from lmft.storage.hashing import digest, digest_file
from lmft.storage.hub import hub_errors, resolve_commit

VALIDATION_TOPICS = 20
READING = 2  # version of reading files; raise it if the same bytes are read as different text


@dataclass(frozen=True)
class Rows:
    """The rows of one file or split.

    A row is a line of a text file with its line end, or the text of a record.
    """

    read: Callable[[], Iterator[str]]  # each call starts from the first row
    rule: str  # how dataset.document=auto makes documents of them; a key of documents.RULES
    table: "Table | None" = None  # the records that they are texts of; None: they are lines


@dataclass(frozen=True)
class Table:
    """The records of one file or split, with all their columns."""

    where: str  # for messages
    names: Callable[[], list[str]]  # the columns
    records: Callable[[], Iterator[Record]]  # each call starts from the first


class Source(Protocol):
    """Interface of the classes that `dataset.source` can name.

    `where` is the value of dataset.train, dataset.validation or dataset.test.
    """

    def parts(self, where: str) -> list[Rows]:
        """Return the rows of one split, file by file.

        Raises:
            UserError: there is no such split.
        """

    def digest(self, where: str) -> str:
        """Return a hash that changes with the text that `parts` yields."""


@dataclass(frozen=True)
class PythonDocs:
    """The documentation topics that CPython includes: about 460 kB, one document per topic."""

    def parts(self, where: str) -> list[Rows]:
        """Return the topics of `train`, or of `validation`: those whose titles hash lowest."""
        return [Rows(lambda: iter(self._topics(where)), rule="row")]

    def digest(self, where: str) -> str:
        """Return a hash of the topics, which change with the Python version."""
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
    """Files: for each split a file, a folder or a glob, or a list of them."""

    text_column: str  # of records
    errors: TextErrors = TextErrors.strict
    delimiter: str | None = None  # of .csv and .tsv; None: a comma and a tab

    def parts(self, where: Paths) -> list[Rows]:
        """Return the rows of each file: lines of .txt and .md, records of other formats."""
        return [
            Rows(
                partial(read_rows, path, self.text_column, self.errors, self.delimiter),
                rule="row" if has_records(path) else "file",
                table=self._table(path) if has_records(path) else None,
            )
            for path in self.paths(where)
        ]

    def digest(self, where: Paths) -> str:
        """Return a hash of the files' contents, formats, text column and reading mode."""
        paths, contents = self.paths(where), []
        for path in paths:
            with readable(path):
                contents.append(digest_file(path))
        # Only what changes the text: errors=strict never does.
        more = [self.errors.value] if self.errors is not TextErrors.strict else []
        more += [f"delimiter {self.delimiter}"] if self.delimiter is not None else []
        formats = [format_of(path) for path in paths]
        return digest([digest(contents), formats, self.text_column, READING, *more])

    def paths(self, where: Paths) -> list[Path]:
        """Return the files of one split, in the order in which they are read.

        Raises:
            UserError: there are none.
        """
        return find_files(where)

    def _table(self, path: Path) -> Table:
        reading = Reading(self.errors, self.delimiter)
        return Table(
            str(path),
            partial(read_names, path, reading),
            partial(read_clean_records, path, reading),
        )


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face Hub, pinned to the commit that `revision` points to now."""

    name: str  # owner/name
    config: str | None
    revision: str
    text_column: str
    rule: str  # what dataset.document=auto means

    def parts(self, where: str) -> list[Rows]:
        """Return the rows of the hub's split `where`."""
        table = Table(
            self.name,
            lambda: list(self._table(where).column_names),
            lambda: self._records(where),
        )
        # A corpus whose documents have several rows is text.
        return [Rows(lambda: self._rows(where), self.rule, table if self.rule == "row" else None)]

    def digest(self, where: str) -> str:
        """Return a hash of the commit and the names, without reading the data."""
        commit = resolve_commit(self.name, self.revision, "dataset")
        return digest([self.name, self.config, commit, where, self.text_column])

    def _table(self, where: str) -> Any:
        import datasets

        commit = resolve_commit(self.name, self.revision, "dataset")
        with hub_errors(f"dataset {self.name!r}"):
            return datasets.load_dataset(self.name, self.config, split=where, revision=commit)

    def _records(self, where: str) -> Iterator[Record]:
        pages = self._table(where).with_format("arrow").iter(1000)
        rows = (values for page in pages for values in page.to_pylist())
        return (Record(self.name, number, values) for number, values in enumerate(rows, start=1))

    def _rows(self, where: str) -> Iterator[str]:
        table = self._table(where)
        column = outer_name(self.name, table.column_names, self.text_column)
        pages = table.select_columns(column).with_format("arrow").iter(1000)
        values = (value for page in pages for value in page[column].to_pylist())
        for number, value in enumerate(values, start=1):
            yield text_of(Record(self.name, number, {column: value}), self.text_column)
