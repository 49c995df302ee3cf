"""Progress in a log file: a line every so often, without bars or control sequences."""

import io
import re
import time

import pytest

from lmft.output.bars import LONGEST, readable_time
from lmft.output.terminal import Screen, Terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_ever_rarer_with_the_time_left(clock):
    steps, file, at = 36_000, io.StringIO(), []
    terminal = Terminal(Screen(file=file, width=80), prefix="job 3: ")
    with terminal.progress(steps) as bars:
        for number in range(1, steps + 1):
            before = len(file.getvalue())
            clock[0] += 0.5
            bars.show_step(number, "loss 3.142  9,000 tokens/s")
            at += [clock[0]] if len(file.getvalue()) > before else []
    waits = [later - earlier for earlier, later in zip(at, at[1:], strict=False)]
    assert at[0] == 10 and waits[:4] == [20, 40, 80, 160] and waits[-1] == LONGEST
    lines = file.getvalue().splitlines()
    assert len(lines) == len(at) < 40  # in five hours
    first = "job 3: step     20 of 36,000  loss 3.142  9,000 tokens/s  5 h left"
    assert lines[0] == first and file.getvalue().isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", file.getvalue())


def test_a_resumed_run_tells_the_time_left_by_its_own_steps(clock):
    file = io.StringIO()
    with Terminal(Screen(file=file)).progress(1000) as bars:
        for number in range(900, 1001):
            clock[0] += 1
            bars.show_step(number, "")
    assert file.getvalue().startswith("step    909 of 1,000    91 s left\n")


def test_a_long_evaluation_says_how_far_it_is_and_a_short_one_nothing(clock):
    file = io.StringIO()
    for seconds in (0.05, 1):
        with Terminal(Screen(file=file)).progress(0) as bars:
            with bars.evaluation("test", 100) as advance:
                for _ in range(50):
                    clock[0] += seconds
                    advance(2)
    assert file.getvalue() == "test 20 of 100 blocks\ntest 60 of 100 blocks\n"


def test_a_duration_is_told_in_its_unit():
    told = [readable_time(seconds) for seconds in (0.2, 99, 100, 5000, 7200, 90_000, 500_000)]
    assert told == ["0 s", "99 s", "2 min", "83 min", "2 h", "25 h", "6 days"]
