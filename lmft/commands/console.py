"""What every process of lmft sets up first, and how errors are reported on stderr."""

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from lmft.errors import RunLocked, VerificationError, WorkerFailed, as_fault
from lmft.hardware.ranks import is_rank_zero
from lmft.output.sanitize import RedactingFormatter, redact, strip_control
from lmft.output.streams import make_streams_unfailing
from lmft.signals import install_signal_handlers

logger = logging.getLogger(__name__)

DONE, FAILED, MISTAKE, BUSY = 0, 1, 2, 3  # exit codes


_prefix = ""  # of lines on stderr, after the name of the program


class Console(logging.StreamHandler[TextIO]):
    """Warnings and errors on stderr; on a terminal, above the bars that are there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Beside bars, rich does it, which else draws over the line."""
        bars = sys.stderr
        if self.stream.isatty() and getattr(bars, "rich_proxied_file", None) is self.stream:
            bars.write(f"{self.format(record)}\n")
        else:
            super().emit(record)


def set_line_prefix(prefix: str) -> None:
    """Set what warnings and errors start with: the job, where several print to one terminal."""
    global _prefix
    _prefix = prefix
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Console):
            handler.setFormatter(RedactingFormatter(f"lmft: {prefix}%(message)s"))


def report(error: Exception) -> int:
    """Print in one sentence what went wrong; return the exit code."""
    from lmft.config.guarded_loader import debug_is_on

    if debug_is_on():
        print_traceback(error)
    print(f"lmft: {_prefix}{describe(error)}", file=sys.stderr)
    return exit_code(error)


def exit_code(error: Exception) -> int:
    """Return the exit code of a process that ends by `error`."""
    from lmft.config.error_messages import as_user_error

    if as_user_error(error) is not None:
        return MISTAKE
    return BUSY if isinstance(error, RunLocked) else FAILED


@contextmanager
def redacted_output() -> Iterator[None]:
    """Redact what Hydra itself prints of a config (`-c job` and its like)."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        sys.stdout.write(strip_control(redact(printed.getvalue())))


def print_traceback(error: BaseException) -> None:
    """Print where `error` was raised."""
    print(strip_control(redact("".join(traceback.format_exception(error)))), file=sys.stderr)


def describe(error: Exception) -> str:
    """Return what went wrong in one sentence, without secrets."""
    return strip_control(redact(_describe(error)))


def _describe(error: Exception) -> str:
    from lmft.config.error_messages import as_user_error

    mistake = as_user_error(error)
    if mistake is not None or isinstance(error, RunLocked):
        return str(mistake or error)
    fault = as_fault(error)
    if fault is not None or isinstance(
        error, FloatingPointError | VerificationError | WorkerFailed
    ):
        return str(fault or error)
    reason = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".:")
    return f"{type(error).__name__}: {reason}; debug=true shows where."


def log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning of a library to the log file of the run, not to the terminal."""
    logger.info("%s: %s (%s, line %d)", category.__name__, message, filename, lineno)


def limit_spinning() -> None:
    """Let the threads of OpenMP spin for some 150 µs at most, then sleep, unless the user chose.

    Sleeping at once made steps of LoRA a tenth to a quarter longer: few parallel regions are
    further apart. Spinning for long, as is libgomp's default, made two processes on the same cores
    two to three times slower.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def prepare() -> None:
    """Install signal handlers, report warnings on stderr, and turn off telemetry of libraries."""
    make_streams_unfailing()
    warnings.showwarning = log_warning
    install_signal_handlers()
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # else the hub is asked to convert pickles
        "TOKENIZERS_PARALLELISM": "true",
    }
    limit_spinning()
    if any(isinstance(handler, Console) for handler in logging.getLogger().handlers):
        return
    console = Console(sys.stderr)
    # Other ranks would repeat what rank 0 warns of.
    console.setLevel(logging.WARNING if is_rank_zero() else logging.ERROR)
    console.setFormatter(RedactingFormatter("lmft: %(message)s"))
    logging.getLogger().addHandler(console)
