"""Hydra's `optuna` sweeper: an Optuna study proposes the values of each job.

Hydra imports this at every start, so whatever takes time is imported inside functions.
"""

import logging
import re
import shlex
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.lmft_optuna.space import (
    Space,
    as_overrides,
    corner_points,
    match_grid,
    read_space,
)
from lmft.errors import Refused, UserError

if TYPE_CHECKING:
    from lmft.sweep.optuna_study import Study


logger = logging.getLogger(__name__)


@dataclass
class OptunaSweeper(Sweeper):
    """A search that each launch resumes; its knobs are explained in conf/hydra/sweeper/optuna.yaml.

    A search is an Optuna study, kept in `storage`. The same command, given again, adds trials to it
    until there are `n_trials`.
    """

    params: dict[str, Any] | None
    n_trials: int
    n_jobs: int
    max_failures: int | None
    sampler: Any
    pruner: Any
    seed: int
    study_name: str | None
    storage: str | None

    def __post_init__(self) -> None:
        if self.study_name is not None and not re.fullmatch(r"[\w.-]+", str(self.study_name)):
            raise UserError(
                f"hydra.sweeper.study_name is {self.study_name!r}; use only letters, digits and "
                ". _ - in it."
            )

        if find_spec("hydra_plugins.hydra_optuna_sweeper") is not None:
            logger.warning(
                "hydra/sweeper=optuna is lmft's; hydra-optuna-sweeper, which is installed too, is "
                "not used: pip uninstall it."
            )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra passes to a sweeper before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until `n_trials` of the study have ended, over all launches.

        Args:
            arguments: overrides of the command line; they take precedence over `params`.

        Raises:
            Refused: the study is locked by another process, can't be run, or had too many failures.
        """
        refused = None
        try:
            self._run_study([f"{k}={v}" for k, v in (self.params or {}).items()] + arguments)
        except Exception as error:  # which cli would take for an error of composing the config
            refused = Refused(error)
        if refused is not None:
            raise refused  # outside of the handler: inside, `error` would become its context

    def _run_study(self, overrides: list[str]) -> None:
        from lmft.runs.find_run import root_of
        from lmft.storage.lock import run_lock
        from lmft.sweep.job import read_plan, write_plan
        from lmft.sweep.optuna_study import NEVER, Study, load_optuna

        load_optuna()
        assert self.hydra_context is not None and self.config is not None
        space, shared = read_space(overrides, self.hydra_context.config_loader)
        self.validate_batch_is_legal(
            [[*shared, *as_overrides(point)] for point in corner_points(space)]
        )
        launch_folder = Path(self.config.hydra.sweep.dir).expanduser().absolute()
        plan = read_plan(launch_folder)
        name, root = str(self.study_name or plan.key), root_of(self.config.run_root)
        with run_lock(root / f"study-{name}"):
            storage = self.storage or study_storage(root, name)
            settings = {"name": name, "storage": storage, "pruner": self.pruner or NEVER}
            study = Study(settings, match_grid(self.sampler, space), self.seed)
            study.check(space)
            write_plan(launch_folder, replace(plan, study=settings))
            self._run_trials(study, space, shared, launch_folder)
            print(describe_best(study))
            if self._has_too_many_failures(study):
                raise UserError(
                    f"{study.count('FAIL')} trials failed, more than hydra.sweeper.max_failures="
                    f"{self.max_failures}; set a higher one, or null, to resume the study."
                )

    def _run_trials(
        self, study: "Study", space: Space, shared: list[str], launch_folder: Path
    ) -> None:
        from lmft.sweep.records import JobRecord, read_records

        assert self.launcher is not None
        while not self._has_too_many_failures(study):
            trials = study.next_trials(space, self.n_jobs, self.n_trials)
            if not trials:
                return
            jobs = [[*shared, *as_overrides(values)] for values in trials.values()]
            results = self.launcher.launch(jobs, initial_job_idx=min(trials))
            records = {record.number: record for record in read_records(launch_folder)}
            for number in trials:
                record = records.get(number, JobRecord(number, {}))  # none: it did not start
                study.tell(number, record.state, record.loss)
            for result in results:
                _ = result.return_value  # raises what the job itself did not catch

    def _has_too_many_failures(self, study: "Study") -> bool:
        return self.max_failures is not None and study.count("FAIL") > self.max_failures


def study_storage(root: Path, name: str) -> str:
    """Return the URL of the study's SQLite file, whose folder is created beside the runs."""
    folder = root / ".studies"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / name}.db"


def describe_best(study: "Study") -> str:
    """Describe the best trial in one line; its values can be pasted after `lmft`."""
    best = study.best()
    if best is None:
        return "No trial of the study has finished."
    return (
        f"Best of the study: trial {best.number}, validation loss {best.loss.mean:.4f}, perplexity "
        f"{best.loss.perplexity:,.2f}: {shlex.join(as_overrides(best.values))}"
    )
