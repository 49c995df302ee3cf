"""A job of a sweep: what it says of itself, and of the time that all still take."""

import pytest

from lmft.sweep.job import SweepPlan, seconds_left
from lmft.sweep.records import NOT_STARTED, JobRecord, write_record

FINISHED, RUNNING = "finished", "running"


@pytest.mark.parametrize(
    ("states", "earlier", "left"),
    [
        ([RUNNING], {}, None),
        ([(FINISHED, 0.0), RUNNING], {0: FINISHED}, None),  # it answered at once
        ([(FINISHED, 60.0), RUNNING], {}, 11 * 60),
        ([(FINISHED, 60.0), ("failed", 0.0), RUNNING], {}, 10 * 60),
        ([(FINISHED, 50.0), (FINISHED, 70.0), RUNNING, RUNNING], {}, 10 * 60 / 2),
        ([(FINISHED, 60.0), RUNNING], {3: FINISHED, 4: FINISHED, 5: NOT_STARTED}, 9 * 60),
        ([(FINISHED, 60.0), RUNNING], {99: FINISHED}, 11 * 60),  # of other values
    ],
)
def test_the_time_left_is_that_of_the_jobs_still_to_be_trained(states, earlier, left, tmp_path):
    launch, sweep = tmp_path / "launch", tmp_path / "sweep"
    plan = SweepPlan("key", ["seed"], str(sweep), None, 12, list(range(12)))
    for number, state in earlier.items():
        write_record(sweep, number, JobRecord(number, {}, state))
    for number, found in enumerate(states):
        state, seconds = (found, 0.0) if found == RUNNING else found
        write_record(launch, number, JobRecord(number, {}, state, seconds=seconds))
    assert seconds_left(plan, launch) == left
