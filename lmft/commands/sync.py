"""`lmft sync`: send to MLflow what it lacks of runs, from their folders."""

from argparse import Namespace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lmft.commands.clean import find
from lmft.config.build import build
from lmft.config.compose import compose, load_composed, split_config_dirs
from lmft.errors import RunLocked, StoreUnavailable, UserError
from lmft.runs.listing import State, list_runs, read_entry
from lmft.storage.lock import run_lock
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.protocol import Tracker
from lmft.tracker.run_log import read_facts

OWN = ("run_root", "tracker")  # the knobs and groups that may be set


def main(arguments: Namespace) -> None:
    """Run the command.

    Each run goes to the store that it was started with, unless the words name another one.
    """
    names = [word for word in arguments.words if "=" not in word]
    knobs = [word for word in arguments.words if "=" in word]
    for knob in split_config_dirs(knobs)[1]:
        if knob.partition("=")[0].partition(".")[0] not in OWN:
            raise UserError(f"lmft sync takes run_root and tracker knobs, not {knob!r}.")
    composed = compose(knobs)
    root = Path(composed.run_root).expanduser().absolute()
    entries = [read_entry(find(name, root)) for name in names] or list_runs(root)
    changed = [knob.partition("=")[0] for knob in knobs if knob.startswith("tracker")]
    counts = {"sent": 0, "there already": 0, "at work": 0, "without a tracker": 0}
    failures: dict[str, UserError] = {}  # by store
    for entry in entries:
        tracker = tracker_of(entry.path, composed, changed)
        if tracker.how_to_view() in failures or not (facts := read_facts(entry.path)):
            continue
        finished = entry.state in (State.finished, State.evaluated)
        status = "FINISHED" if finished else facts.get("status", "KILLED")
        try:
            counts[send(entry.path, tracker, status)] += 1
        except RunLocked:
            counts["at work"] += 1
        except UserError as error:
            failures[tracker.how_to_view()] = error
    nonzero = [f"{count} {what}" for what, count in counts.items() if count]
    if nonzero or not failures:
        print(f"Runs in {root}: {', '.join(nonzero) or 'none'}.")
    if failures:
        raise next(iter(failures.values()))


def tracker_of(path: Path, composed: DictConfig, changed: list[str]) -> Tracker:
    """Return the tracker that the run in `path` was started with, with the changed knobs set."""
    tree = load_composed(path / ".hydra" / "config.yaml")
    for knob in changed:
        OmegaConf.update(tree, knob, OmegaConf.select(composed, knob), merge=False)
    tracker: Tracker = build(tree.tracker)
    return tracker


def send(path: Path, tracker: Tracker, status: str) -> str:
    """Send the store all of one run that it lacks; return what was done.

    Raises:
        UserError: the store refuses it; StoreUnavailable if it does not answer.
        RunLocked: the run is running, and sends by itself.
    """
    if not isinstance(tracker, MlflowTracker):
        return "without a tracker"
    with run_lock(path):
        if tracker.is_up_to_date(path, status):
            return "there already"
        try:
            points = tracker.upload(path, status)
        except StoreUnavailable as error:
            raise StoreUnavailable(error.what, "lmft sync again once it takes them") from error
    print(f"{path.name}: {points:,} points, {status}")
    return "sent"
