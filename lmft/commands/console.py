"""What a person reads on stderr, and what every process of lmft does first."""

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from lmft.config import CONF
from lmft.errors import RunLocked, VerificationError, WorkerFailed, as_fault
from lmft.output.sanitize import RedactingFormatter, redact, strip_control
from lmft.signals import listen

DONE, FAILED, MISTAKE, BUSY = 0, 1, 2, 3  # exit codes


class Console(logging.StreamHandler[TextIO]):
    """What a person reads on stderr."""


def report(error: Exception) -> int:
    """Say in one sentence what went wrong; returns the exit code."""
    if "debug=true" in sys.argv:
        show_traceback(error)
    print(f"lmft: {describe(error)}", file=sys.stderr)
    return exit_code(error)


def exit_code(error: Exception) -> int:
    """What the process tells the one that started it."""
    from lmft.config.error_messages import as_mistake

    if as_mistake(error, CONF) is not None:
        return MISTAKE
    return BUSY if isinstance(error, RunLocked) else FAILED


@contextmanager
def redacted_output() -> Iterator[None]:
    """What Hydra itself prints of a config (`-c job` and its like), without credentials."""
    if not {"-c", "--cfg", "-i", "--info", "--hydra-help"} & {
        word.partition("=")[0] for word in sys.argv
    }:
        yield
        return
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            yield
    finally:
        sys.stdout.write(strip_control(redact(shown.getvalue())))


def show_traceback(error: BaseException) -> None:
    """Where it went wrong."""
    print(strip_control(redact("".join(traceback.format_exception(error)))), file=sys.stderr)


def describe(error: Exception) -> str:
    """What went wrong, in one sentence that gives away no secret."""
    return strip_control(redact(_describe(error)))


def _describe(error: Exception) -> str:
    from lmft.config.error_messages import as_mistake

    mistake = as_mistake(error, CONF)
    if mistake is not None or isinstance(error, RunLocked):
        return str(mistake or error)
    fault = as_fault(error)
    if fault is not None or isinstance(
        error, FloatingPointError | VerificationError | WorkerFailed
    ):
        return str(fault or error)
    reason = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".:")
    return f"{type(error).__name__}: {reason}; debug=true shows where."


def prepare() -> None:
    """Heed signals; only our own voice, and warnings; no library counts its users."""
    listen()
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # else the hub is asked to unpickle for us
        "TOKENIZERS_PARALLELISM": "true",
    }
    # Threads that wait must not spin: beside another busy process that made steps ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if any(isinstance(known, Console) for known in logging.getLogger().handlers):
        return
    console = Console(sys.stderr)
    console.setLevel(logging.WARNING)
    console.setFormatter(RedactingFormatter("lmft: %(message)s"))
    logging.getLogger().addHandler(console)
