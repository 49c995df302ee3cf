"""`lmft verify resume`: prove that a run that is killed and resumed ends as if it was not."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from lmft.analysis.verify.diff import compare_folders, compare_with_store, show_findings
from lmft.analysis.verify.killable_run import KillableRun
from lmft.errors import UserError, VerificationError
from lmft.output.terminal import Terminal, print_sentence

STEPS = 20  # unless trainer.max_steps is given
POLL = 0.005  # seconds
ATTEMPTS = 3  # at killing a run before it ends


def verify_resume(words: list[str], console: Console) -> None:
    """Run `words` without interruption, and again with a kill and a restart; compare the results.

    Raises:
        UserError: the run can't be started, or ends too soon to be interrupted.
        VerificationError: the results differ.
    """
    with TemporaryDirectory(prefix="lmft-verify-") as root:
        uri = f"sqlite:///{root}/mlflow.db"
        words = [
            f"trainer.max_steps={STEPS}",
            *words,  # which may override it
            *("tracker=mlflow", f"tracker.uri={uri}", "fresh=false"),
        ]
        straight = KillableRun(Path(root) / "straight", words)
        with timed("straight to the end", console):
            straight.finish()
        steps = json.loads((straight.folder / "result.json").read_text())["steps"]
        interrupted, reached = interrupt(Path(root), words, steps, console)
        with timed("the same command again, to the end", console):
            interrupted.finish()
        findings = [
            *compare_folders(straight.folder, interrupted.folder),
            compare_with_store("straight", straight.folder, uri),
            compare_with_store("interrupted", interrupted.folder, uri),
        ]
        resumed = interrupted.resumed_from()
    show_findings(findings, console)
    summary = f"interrupted at step {reached:,} of {steps:,}"
    if resumed is None:
        raise VerificationError(
            f"The run that was {summary} started over, so resuming was not tested."
        )
    summary += f" and resumed from step {resumed:,}, the run ends"
    different = [finding.what for finding in findings if finding.difference]
    if different:
        raise VerificationError(f"Not identical: {summary} differently in {', '.join(different)}.")
    text = f"Identical: {summary} as if it had not been interrupted."
    print_sentence(Text(text, "bold"), console)


def interrupt(
    root: Path, words: list[str], steps: int, console: Console
) -> tuple[KillableRun, int]:
    """Return a run of `steps` steps that was killed about halfway, and the step that it reached.

    It saves more checkpoints than the straight run, which changes no number.

    Raises:
        UserError: it ends before it can be killed.
    """
    words = [*words, f"trainer.checkpoint_every={max(1, steps // 4)}"]
    for attempt in range(ATTEMPTS if steps > 1 else 0):
        run = KillableRun(root / f"interrupted-{attempt}", words)
        # If the run ended first, aim at an earlier step, and look more often.
        step, poll = max(1, steps // 2 ** (attempt + 1)), POLL / 10**attempt
        with timed(f"until kill -9 at step {step:,}", console):
            reached = run.kill_at(step, poll)
        if reached is not None:
            return run, reached
        console.print("The run ended before it could be killed; trying again, earlier.")
    raise UserError(
        f"The run is over after {steps:,} steps, too soon to be interrupted; raise "
        "trainer.max_steps or trainer.epochs."
    )


@contextmanager
def timed(what: str, console: Console) -> Iterator[None]:
    """Show what is being done, and then how long it took."""
    started = time.monotonic()
    with Terminal(console).status(what):
        yield
    console.print(f"{time.monotonic() - started:6.1f} s  {what}")
