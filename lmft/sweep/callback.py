"""Hydra's callback that opens a sweep, and the functions that end it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lmft.config.build import build
from lmft.config.knob_metadata import Decides
from lmft.config.knobs import flatten
from lmft.config.schema import decides, is_as_before
from lmft.errors import Refused
from lmft.output.terminal import Terminal
from lmft.runs.find_run import root_of
from lmft.runs.provenance import describe_source
from lmft.runs.run_id import safe_name
from lmft.storage.hashing import digest
from lmft.storage.lock import run_lock
from lmft.sweep.job import SweepPlan, write_plan
from lmft.sweep.records import (
    JobRecord,
    forget_unstarted,
    number_jobs,
    read_jobs,
    read_records,
    write_record,
)
from lmft.tracker.mlflow_store import SWEEP_FOLDER_TAG
from lmft.tracker.protocol import Tracker

GOOD_STATES = ("finished", "pruned")


class OpenSweep(Callback):
    """Hydra's hook at the start of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the sweep in the tracker, and write its plan for the jobs."""
        global _current
        try:
            _current = Sweep(config)
        except Exception as error:  # Hydra would only warn, and start the jobs
            raise Refused(error) from error


@dataclass(frozen=True)
class ClosedSweep:
    """How a sweep ended."""

    folder: Path  # of its report
    jobs: list[JobRecord]  # of all launches, by number
    succeeded: bool  # whether all jobs of this launch were started, and none failed


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
        self.launch_folder = Path(config.hydra.sweep.dir).expanduser().absolute()
        self.folder = root_of(config.run_root) / self.name
        self.tracker: Tracker = build(config.tracker)
        words = list(config.hydra.overrides.task)
        grid = [] if "n_trials" in hydra["sweeper"] else expand_grid(words, hydra["sweeper"])
        tags = describe_source("lmft -m " + " ".join(words)) | {SWEEP_FOLDER_TAG: str(self.folder)}
        with run_lock(self.folder, wait=True):  # two launches at once must open the same sweep
            self.sweep_id = self.tracker.open_sweep(self.key, self.name, tags)
            self.numbers = number_jobs(self.folder, grid, self.names)
        total = len(grid) or hydra["sweeper"]["n_trials"]
        parallel = not hydra["launcher"]["_target_"].endswith(".BasicLauncher")
        self.plan = SweepPlan(
            self.key, self.names, str(self.folder), self.sweep_id, total, self.numbers, parallel
        )
        write_plan(self.launch_folder, self.plan)

    def close(self, complete: bool) -> ClosedSweep:
        """Report the jobs of all launches and end the sweep in the tracker.

        Args:
            complete: whether every job of this launch was started.
        """
        from lmft.sweep.report import report_jobs  # loads scipy; single runs import this module

        records = read_records(self.launch_folder)
        succeeded = complete and all(record.state in GOOD_STATES for record in records)
        for record in records:
            if record.state == "running":  # its process was killed
                record.state = "stopped"
                write_record(self.folder, record.number, record)
        jobs: list[JobRecord] = []
        if records or complete:
            jobs = read_jobs(self.folder)
            best = report_jobs(jobs, self.folder, Terminal())
            if not complete and not self.numbers:  # of a search
                unstarted = max(0, self.plan.total - len(jobs))
                Terminal().print(f"{unstarted} of {self.plan.total} trials were not started.")
            if self.sweep_id is not None:
                self.tracker.close_sweep(self.sweep_id, succeeded, self.folder, best)
        elif self.sweep_id is not None:
            self.tracker.discard_sweep(self.sweep_id)
        forget_unstarted(self.folder, self.numbers)
        self.remove_launch_folder()
        return ClosedSweep(self.folder, jobs, succeeded)

    def remove_launch_folder(self) -> None:
        """Remove the files by which the jobs of this launch communicate."""
        shutil.rmtree(self.launch_folder, ignore_errors=True)


_current: Sweep | None = None


def close_current(complete: bool) -> ClosedSweep | None:
    """End the sweep that this process has opened, if any.

    Args:
        complete: whether every job was started.
    """
    global _current
    sweep, _current = _current, None
    return None if sweep is None else sweep.close(complete)


def release_current() -> None:
    """Leave the sweep that this process has opened to another process, which works on it."""
    global _current
    assert _current is not None
    _current.remove_launch_folder()
    _current = None


def swept_names(words: list[str], sweeper: dict[str, Any]) -> list[str]:
    """Return the knobs and groups that vary, by command line or by the sweeper's own config."""
    overrides = OverridesParser.create().parse_overrides(words)
    swept = [o.get_key_element().lstrip("+") for o in overrides if o.is_sweep_override()]
    return list(dict.fromkeys([*swept, *(sweeper.get("params") or {})]))


def expand_grid(words: list[str], sweeper: dict[str, Any]) -> list[list[str]]:
    """Return the overrides of each job of a grid, in the order in which Hydra runs them."""
    loader = GlobalHydra.instance().config_loader()  # provides the choices of glob(*)
    params = [f"{knob}={values}" for knob, values in (sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *words])
    return BasicSweeper.split_arguments(overrides, None)[0]


def common_knobs(tree: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the knobs that all jobs have in common, by full name; not hardware and locations."""
    swept = tuple(f"{name}." for name in names)
    tree = {group: knobs for group, knobs in tree.items() if not is_as_before(group, knobs)}
    return {
        name: value
        for name, value in flatten(tree).items()
        if name not in names
        and not name.startswith((*swept, "hardware."))
        and decides(name) is not Decides.location
        and not is_as_before(name, value)
    }
