"""Hydra's callback that opens a sweep, and what ends it."""

import shutil
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lmft.config.build import build
from lmft.config.knobs import flatten
from lmft.errors import Refused
from lmft.output.terminal import Terminal
from lmft.runs.listing import PLACES
from lmft.runs.provenance import describe_source
from lmft.runs.run_dir import root_of
from lmft.runs.run_id import safe_name
from lmft.storage.hashing import digest
from lmft.storage.lock import run_lock
from lmft.sweep.job import Plan, read_notes, write_plan
from lmft.sweep.report import summarize
from lmft.tracker.protocol import Tracker

GOOD = ("finished", "pruned")


class OpenSweep(Callback):
    """Hydra's hook: the sweep that it is about to start."""

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Find the parent or make it, and tell the jobs."""
        global _current
        try:
            _current = Sweep(config)
        except Exception as error:  # Hydra would warn and start the jobs
            raise Refused(error) from error


class Sweep:
    """The sweep of this process."""

    def __init__(self, config: DictConfig):
        tree: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
        hydra = tree.pop("hydra")
        study = config.hydra.sweeper.get("study_name")
        self.names = swept_names(list(config.hydra.overrides.task), hydra["sweeper"])
        self.key = digest([common_knobs(tree, self.names), sorted(self.names), study])
        short = "-".join(name.rpartition(".")[2] for name in self.names)
        self.name = f"sweep-{safe_name(short)}-{self.key[:10]}"
        self.launch = Path(config.hydra.sweep.dir).expanduser().absolute()
        self.folder = root_of(config.run_root) / self.name
        self.tracker: Tracker = build(config.tracker)
        tags = describe_source("lmft -m " + " ".join(config.hydra.overrides.task))
        with run_lock(self.folder, wait=True):  # so that two launches at once find one parent
            self.parent = self.tracker.open_sweep(self.key, self.name, tags)
        write_plan(self.launch, Plan(self.key, self.names, self.parent, None))

    def close(self, whole: bool) -> bool:
        """Show what became of the jobs and end the parent; returns whether all went well."""
        notes = read_notes(self.launch)
        good = whole and all(note.state in GOOD for note in notes)
        best = summarize(notes, self.folder, Terminal())
        if self.parent is not None and not notes and not whole:  # none of them began
            self.tracker.drop_sweep(self.parent)
        elif self.parent is not None:
            self.tracker.close_sweep(self.parent, good, self.folder, best)
        shutil.rmtree(self.launch, ignore_errors=True)
        return good


_current: Sweep | None = None


def close(whole: bool) -> bool:
    """End the sweep that was opened in this process, if one was; returns whether all went well.

    Args:
        whole: whether each job had its turn.
    """
    global _current
    sweep, _current = _current, None
    return sweep is None or sweep.close(whole)


def leave() -> None:
    """The sweep that was opened in this process is left to another one, which is at it."""
    global _current
    assert _current is not None
    shutil.rmtree(_current.launch, ignore_errors=True)
    _current = None


def swept_names(words: list[str], sweeper: dict[str, Any]) -> list[str]:
    """The knobs and groups that vary, of the command line and of the sweeper's own config."""
    parsed = OverridesParser.create().parse_overrides(words)
    varied = [o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()]
    return list(dict.fromkeys([*varied, *(sweeper.get("params") or {})]))


def common_knobs(tree: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The knobs by full name, less those that vary and those that say where and how fast."""
    varied = tuple(f"{name}." for name in names)
    return {
        name: value
        for name, value in flatten(tree).items()
        if name not in names and not name.startswith((*varied, *PLACES))
    }
