"""The log file of a run."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmft.output.sanitize import RedactingFormatter, redact, strip_control


class LogFile(logging.FileHandler):
    """A log that goes without what its disk has no room for: the run's metrics tell of that."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Of one that could not be written."""


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Everything that is logged inside also goes to the file `path`."""
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
