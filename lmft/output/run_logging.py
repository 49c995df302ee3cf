"""The log file of a run."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmft.output.sanitize import RedactingFormatter, redact, strip_control


class LogFile(logging.FileHandler):
    """A log file that drops records when the disk is full; writing the metrics reports that."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore a record that could not be written."""


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write all log records, and the traceback of an exception, to the file `path` as well."""
    handler = LogFile(path)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("lmft").setLevel(logging.INFO)
    try:
        yield
    except Exception:
        with suppress(OSError):
            print(strip_control(redact(traceback.format_exc())), file=handler.stream)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()
