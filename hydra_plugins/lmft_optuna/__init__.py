"""Hydra's `optuna` sweeper: each job's values follow from what the jobs before it reached.

Hydra imports this at every start, so what takes time is imported where it is used.
"""

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.lmft_optuna.space import Space, as_words, corners, read_space
from lmft.errors import Refused, UserError

if TYPE_CHECKING:
    from lmft.sweep.optuna_study import Study


class TooManyFailures(RuntimeError):
    """More trials failed than `max_failures` allows."""


@dataclass
class OptunaSweeper(Sweeper):
    """A search, gone on with by each launch; conf/hydra/sweeper/optuna.yaml tells of its knobs."""

    params: dict[str, Any] | None
    n_trials: int
    n_jobs: int
    max_failures: int | None
    sampler: dict[str, Any]
    pruner: dict[str, Any] | None
    seed: int
    study_name: str | None
    storage: str | None

    def __post_init__(self) -> None:
        if self.study_name is not None and not re.fullmatch(r"[\w.-]+", str(self.study_name)):
            raise UserError(
                f"hydra.sweeper.study_name is {self.study_name!r}; only letters, digits and . _ - "
                "make a name."
            )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's hand-over."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until as many as `n_trials` have ended, over all launches.

        Args:
            arguments: the words of the command line; they outrank `params`.

        Raises:
            Refused: by another process at the same study, a mistake, or too many failures.
        """
        refused = None
        try:
            self._lead([f"{k}={v}" for k, v in (self.params or {}).items()] + arguments)
        except Exception as error:  # else it would be taken for a mistake in composing
            refused = Refused(error)
        if refused is not None:
            raise refused  # out here: inside, the error would become the cause of its own cause

    def _lead(self, words: list[str]) -> None:
        from lmft.runs.run_dir import root_of
        from lmft.storage.lock import run_lock
        from lmft.sweep.job import read_plan, write_plan
        from lmft.sweep.optuna_study import NEVER, Study, load_optuna

        load_optuna()
        assert self.hydra_context is not None and self.config is not None
        space, shared = read_space(words, self.hydra_context.config_loader)
        self.validate_batch_is_legal([[*shared, *as_words(point)] for point in corners(space)])
        launch = Path(self.config.hydra.sweep.dir).expanduser().absolute()
        plan = read_plan(launch)
        name, root = str(self.study_name or plan.key), root_of(self.config.run_root)
        with run_lock(root / f"study-{name}"):
            storage = self.storage or place_study(root, name)
            facts = {"name": name, "storage": storage, "pruner": self.pruner or NEVER}
            study = Study(facts, self.sampler, self.seed)
            study.check(space)
            write_plan(launch, replace(plan, study=facts))
            self._search(study, space, shared, launch)
            print(tell_best(study))
            if self._is_too_much(study):
                raise TooManyFailures(
                    f"{study.count('FAIL')} trials failed, more than hydra.sweeper.max_failures="
                    f"{self.max_failures}; a higher one lets the study go on."
                )

    def _search(self, study: "Study", space: Space, shared: list[str], launch: Path) -> None:
        from lmft.sweep.job import Note, read_notes

        assert self.launcher is not None
        while not self._is_too_much(study):
            trials = study.next_trials(space, self.n_jobs, self.n_trials)
            if not trials:
                return
            batch = [[*shared, *as_words(values)] for values in trials.values()]
            results = self.launcher.launch(batch, initial_job_idx=min(trials))
            notes = {note.number: note for note in read_notes(launch)}
            for number in trials:
                note = notes.get(number, Note(number, {}))  # none: it did not come to begin
                study.tell(number, note.state, note.loss)
            for result in results:
                _ = result.return_value  # raises what went wrong outside the job's own story

    def _is_too_much(self, study: "Study") -> bool:
        return self.max_failures is not None and study.count("FAIL") > self.max_failures


def place_study(root: Path, name: str) -> str:
    """The SQLite file of the study, beside the runs."""
    folder = root / ".studies"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / name}.db"


def tell_best(study: "Study") -> str:
    """The best trial in a line; its values can be put after `lmft`."""
    best = study.best()
    if best is None:
        return "No trial of the study has finished."
    return (
        f"Best of the study: trial {best.number}, validation loss {best.loss.mean:.4f}, perplexity "
        f"{best.loss.perplexity:,.2f}: {shlex.join(as_words(best.values))}"
    )
