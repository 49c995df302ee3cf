"""What is reported while bars are on the screen stays there."""

import io
import logging
import os
import pty
import select
import sys

import pytest

from lmft.commands.console import Console, limit_spinning
from lmft.output.terminal import Screen, Terminal


@pytest.fixture
def terminal(monkeypatch):
    """A terminal, and what was written to it."""
    monkeypatch.setenv("TERM", "xterm")
    screen, device = pty.openpty()
    with os.fdopen(device, "w") as stream, os.fdopen(screen, "rb", buffering=0) as written:
        yield stream, lambda: b"".join(chunks(written)).decode()


def chunks(written):
    while select.select([written], [], [], 0.1)[0]:
        yield written.read(100_000)


def warn_beside_bars(monkeypatch, stderr, screen):
    monkeypatch.setattr(sys, "stderr", stderr)
    handler = Console(stderr)
    with Terminal(Screen(file=screen, width=80)).progress(10):
        handler.emit(logging.makeLogRecord({"msg": "one document"}))


def test_a_warning_takes_the_place_of_a_bar_that_is_drawn_again_below(terminal, monkeypatch):
    stream, written = terminal
    warn_beside_bars(monkeypatch, stream, stream)
    before, _, after = written().partition("one document")
    assert "training" in before and before.endswith("\r\x1b[2K")
    assert "training" in after


def test_a_warning_goes_to_the_file_that_stderr_is(terminal, monkeypatch):
    stream, written = terminal
    warn_beside_bars(monkeypatch, file := io.StringIO(), stream)
    assert file.getvalue() == "one document\n" and "one document" not in written()


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_threads_sleep_soon_unless_the_user_chose(policy, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    limit_spinning()
    set_now = os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT")
    assert set_now == (("ACTIVE", None) if policy else ("PASSIVE", "5000"))
