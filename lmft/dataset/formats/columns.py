"""Take the text of a column from records; a column inside another has a path: article.body."""

import re
from typing import Any

from lmft.config.dataset_knobs import TextErrors
from lmft.dataset.decoding import REPLACEMENT, as_text
from lmft.dataset.formats.record import Record, as_values, names_of
from lmft.errors import UserError

OTHER_DELIMITER = re.compile(r"[;\t|]")


def outer_name(where: str, names: list[str], column: str, place: str = "") -> str:
    """Return which of `names` is a column, or the one that it is inside of.

    Args:
        where: the file.
        names: of the columns there are.
        column: the value of dataset.text_column.
        place: of the record that has the names; "": all have.

    Raises:
        UserError: none is, or several are.
    """
    outer = column if column in names else column.partition(".")[0]
    _check_once(where, names, outer, column, place)
    return outer


def _check_once(where: str, names: list[str], name: str, column: str, place: str) -> None:
    """Check that `name`, of the column or on the path to it, is among `names`, once."""
    count = names.count(name)
    place = f" in {place}" if place else ""
    if count == 0:
        raise UserError(
            f"dataset.text_column is {column!r}, but {where} has {', '.join(names) or 'none'}"
            f"{place}; {_way_out(names)}."
        )
    if count > 1:
        raise UserError(
            f"dataset.text_column is {column!r}, but {where} has {count} columns of that "
            f"name{place}; rename or remove all but one of them."
        )


def _way_out(names: list[str]) -> str:
    delimiter = OTHER_DELIMITER.search(names[0]) if len(names) == 1 else None
    if delimiter is None:
        return "set dataset.text_column to one of them"
    return f"set 'dataset.delimiter={delimiter[0]}'".replace("\t", "\\t")


def text_of(record: Record, column: str) -> str:
    """Return the text that a record has in a column, as it is; null is "".

    Raises:
        UserError: it has no such column, or no text there.
    """
    value = value_of(record, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"dataset.text_column is {column!r}, but {record.where} holds {type(value).__name__} "
            f"there in {record.place}, not text; choose another column."
        )
    return value


def value_of(record: Record, column: str) -> Any:
    """Return what a record has in a column, which may be the path of a nested one.

    Raises:
        UserError: it has no such column.
    """
    path = outer_name(record.where, names_of(record.values), column, record.place)
    value = record.values[path]
    if path == column:
        return value
    for name in column.split(".")[1:]:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise UserError(
                f"dataset.text_column is {column!r}, but {record.where} holds "
                f"{type(value).__name__} in {path} in {record.place}; choose another column."
            )
        found = [f"{path}.{other}" for other in names_of(value)]
        path = f"{path}.{name}"
        _check_once(record.where, found, path, column, record.place)
        value = value[name]
    return value


def clean_text(text: str, record: Record, errors: TextErrors) -> str:
    """Return a text of a record with LF for CRLF; what is no text is refused or replaced.

    Raises:
        UserError: it has NUL or half a character, and `errors` is strict.
    """
    if "\0" in text and errors is TextErrors.strict:
        raise not_text_error(record.where, record.place, "a NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors is TextErrors.strict:
            code = f"half a character ({text[error.start]!a})"
            raise not_text_error(record.where, record.place, code) from error
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return as_text(text, record.where)


def clean_values(value: Any, record: Record, errors: TextErrors) -> Any:
    """Return a value of a record with the texts in it as `clean_text` gives them, at any depth."""
    if isinstance(value, str):
        return clean_text(value, record, errors)
    if isinstance(value, dict):
        names = names_of(value)
        return as_values([(name, clean_values(value[name], record, errors)) for name in names])
    if isinstance(value, list):
        return [clean_values(item, record, errors) for item in value]
    return value


def not_text_error(where: str, place: str, what: str) -> UserError:
    """Return the error that a record contains `what`."""
    return UserError(
        f"{where} has {what} in {place}, which is not text; fix it, or set "
        f"dataset.errors=replace to read {REPLACEMENT} there."
    )
