"""Import mlflow, and translate the errors of its stores and servers into one sentence."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from lmft.errors import StoreUnavailable, UserError

# Status codes of 400 to 499 that ask for another attempt: timeout, too early, too many requests.
TRY_AGAIN = (408, 425, 429)
NO_RESPONSE = "failed with (timeout )?exception|database is locked"  # the first are MLflow's words
WEB_PAGE = "not in a valid JSON format|Exceeded \\d+ redirects"  # MLflow's words, and requests'
USER = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
LATER = "or set tracker=none and lmft sync the run later"
STATUS = {known.value: f"{known.value} {known.phrase}" for known in HTTPStatus} | {
    401: f"401, {USER} are missing or wrong",
    403: "403, the right to edit is missing",
}
DRIVERS = {  # package by module, where their names differ
    "psycopg2": "psycopg2-binary",
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a store."""

    what: str  # the end of a sentence that begins with the store
    way_out: str | None  # None: there is none but to change the settings
    is_refusal: bool = False  # whether the store answered, and would answer the same again


def load_mlflow() -> Any:
    """Import mlflow with telemetry, retries and most of its logging switched off."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with its password
    # If the response is lost, a retry might create a run twice: RunUpload checks what arrived.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # importing it had set INFO
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # see store_errors
    return mlflow


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Translate errors of MLflow, SQLAlchemy and the network into one sentence.

    Raises:
        UserError: the store can't be used.
        StoreUnavailable: it does not take the request now, but may do so later.
    """
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        problem = diagnose(error)
        what = f"tracker.uri is {uri!r}, which {problem.what}"
        if problem.way_out is None:
            raise UserError(f"{what}.") from error
        raise StoreUnavailable(what, problem.way_out) from error


def diagnose(error: BaseException) -> Problem:
    """Return what an error of a store means."""
    if isinstance(error, StoreUnavailable) and error.__cause__ is not None:
        error = error.__cause__
    status, text, reason = http_status(error), str(error), short_reason(error)
    refused = isinstance(error, PermissionError)  # of a file
    if status is not None:
        refused = 400 <= status < 500 and status not in TRY_AGAIN
    if isinstance(error, ModuleNotFoundError):
        return Problem(_missing_driver(error), None, True)
    if status == HTTPStatus.UNAUTHORIZED:
        return Problem(f"does not let you in: {reason}", f"set them, {LATER}", True)
    if status == HTTPStatus.FORBIDDEN:
        return Problem(f"does not let you write: {reason}", f"ask for it, {LATER}", True)
    if untrusted := re.search(r"certificate verify failed: ([^(]+) \(", text):
        knob = "MLFLOW_TRACKING_SERVER_CERT_PATH"
        what = f"has a certificate that is not trusted: {untrusted[1]}"
        return Problem(what, f"set {knob} to the file of its authority, {LATER}")
    if "SSL" in text:
        return Problem(f"gives no TLS connection: {reason}", f"try http:// instead, {LATER}")
    if _is_foreign(error, status):
        what = f"does not answer as an MLflow server: {reason}"
        return Problem(what, f"set it to the address of one, {LATER}", refused or status is None)
    if _is_of_database(error):
        return Problem(f"gives no connection: {reason}", f"start it or correct it, {LATER}")
    if _is_out_of_reach(error, status):
        return Problem(f"does not answer: {reason}", f"start it first, {LATER}")
    return Problem(f"can't be used: {reason}", None, refused)


def http_status(error: BaseException) -> int | None:
    """Return the status code of a server's answer; None without one."""
    from mlflow.exceptions import RestException

    status = getattr(getattr(error, "response", None), "status_code", None)  # of artifacts
    if status is not None:
        return int(status)
    if isinstance(error, RestException):
        return int(error.get_http_status_code()) if "error_code" in error.json else None
    # MLflow's words, and those of urllib3 for what it would retry.
    match = re.search(r"(?:failed with error code|too many) (\d+)", str(error))
    return int(match[1]) if match else None


def short_reason(error: BaseException) -> str:
    """Return a store's error in a few words."""
    from mlflow.exceptions import RestException

    if isinstance(error, StoreUnavailable) and error.__cause__ is not None:
        error = error.__cause__
    text, status = str(getattr(error, "orig", error)), http_status(error)
    if status in (401, 403) or (status is not None and not isinstance(error, RestException)):
        return STATUS.get(status, str(status))
    if re.search(WEB_PAGE, text):
        return "it answers with a web page, as of a login"
    words = (
        r"\[SSL: (\w+)\]|\[Errno -?\d+\] ([^'\")\\]+)|"
        r"(database is locked)|(\w+ timed out|Connection aborted)|FATAL: +([^\n]+)"
    )
    match = re.search(words, text)
    if match:
        return next(group for group in match.groups() if group)
    return (text or type(error).__name__).splitlines()[0].rstrip(".")


def _is_foreign(error: BaseException, status: int | None) -> bool:
    """Return whether something else than MLflow answered."""
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        return "error_code" not in error.json
    return re.search(WEB_PAGE, str(error)) is not None or status in (404, 405)


def _is_of_database(error: BaseException) -> bool:
    """Return whether a database other than SQLite refused a connection, or closed it."""
    from sqlalchemy.exc import OperationalError

    return isinstance(error, OperationalError) and "(sqlite3." not in str(error)


def _is_out_of_reach(error: BaseException, status: int | None) -> bool:
    """Return whether the store did not respond or was locked, rather than refused a request."""
    if status is not None:
        return status >= 500 or status in TRY_AGAIN
    return re.search(NO_RESPONSE, str(error)) is not None


def _missing_driver(error: ModuleNotFoundError) -> str:
    module = str(error.name)
    package = DRIVERS.get(module, module)
    return f"needs the package {package}: pip install {package!r}"
