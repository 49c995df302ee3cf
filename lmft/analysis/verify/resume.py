"""`lmft verify resume`: killed halfway and started again, does a run end as it would have?"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from lmft.analysis.verify.diff import compare_runs, compare_store, show_findings
from lmft.analysis.verify.trial import Trial
from lmft.errors import UserError, VerificationError

STEPS = 20  # unless trainer.max_steps is given

POLL = 0.005  # seconds

TRIES = 3  # to kill a run before it ends


def verify_resume(words: list[str], console: Console) -> None:
    """Run `words` straight, and once more with a kill; compare all that they leave.

    Raises:
        UserError: the run can't be started, or is over too soon to be interrupted.
        Differs: the two runs did not end the same.
    """
    with TemporaryDirectory(prefix="lmft-verify-") as place:
        uri = f"sqlite:///{place}/mlflow.db"
        words = [
            f"trainer.max_steps={STEPS}",
            *words,  # which may know better
            *("tracker=mlflow", f"tracker.uri={uri}", "fresh=false"),
        ]
        whole = Trial(Path(place) / "straight", words)
        with timed("straight to the end", console):
            whole.finish()
        steps = json.loads((whole.folder / "result.json").read_text())["steps"]
        broken, reached = interrupt(Path(place), words, steps, console)
        with timed("the same command again, to the end", console):
            broken.finish()
        findings = [
            *compare_runs(whole.folder, broken.folder),
            compare_store("straight", whole.folder, uri),
            compare_store("interrupted", broken.folder, uri),
        ]
        resumed = broken.went_on_from()
    show_findings(findings, console)
    told = f"interrupted at step {reached:,} of {steps:,}"
    if resumed is None:
        raise VerificationError(
            f"The run that was {told} began anew, so going on was not put to the test."
        )
    told += f" and gone on from step {resumed:,}, the run ends"
    different = [finding.what for finding in findings if finding.difference]
    if different:
        raise VerificationError(f"Not identical: {told} differently in {', '.join(different)}.")
    text = f"Identical: {told} as if nothing had happened."
    console.print(Text(text, "bold"), soft_wrap=True)


def interrupt(place: Path, words: list[str], steps: int, console: Console) -> tuple[Trial, int]:
    """A run of `steps` steps that was killed about halfway, and the step it had come to.

    Checkpoints change no number, so it may save more of them than the straight one.

    Raises:
        UserError: it is over before it can be killed.
    """
    words = [*words, f"trainer.checkpoint_every={max(1, steps // 4)}"]
    for attempt in range(TRIES if steps > 1 else 0):
        trial = Trial(place / f"interrupted-{attempt}", words)
        # Where the run was quicker than we were, look earlier and more often.
        step, poll = max(1, steps // 2 ** (attempt + 1)), POLL / 10**attempt
        with timed(f"until kill -9 at step {step:,}", console):
            reached = trial.break_off(step, poll)
        if reached is not None:
            return trial, reached
        console.print("It ended before it could be killed; trying again, earlier.")
    raise UserError(
        f"The run is over after {steps:,} steps, too soon to be interrupted; raise "
        "trainer.max_steps or trainer.epochs."
    )


@contextmanager
def timed(what: str, console: Console) -> Iterator[None]:
    """Say what is being done, and then how long it took."""
    started = time.monotonic()
    with console.status(what):
        yield
    console.print(f"{time.monotonic() - started:6.1f} s  {what}")
