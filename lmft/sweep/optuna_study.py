"""An Optuna study, as the sweep's process uses it, and a trial of it, as a job uses it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmft.errors import UserError, first_line
from lmft.metrics import TokenLoss
from lmft.sweep.search_parts import (
    build_pruner,
    build_sampler,
    refused_as,
    try_sampler,
    wants_to_stop,
)

if TYPE_CHECKING:
    import optuna

Value = float | int | str
NEVER = {"_target_": "optuna.pruners.NopPruner"}  # prunes no trial


class Trial:
    """A trial of a study; its job may run in any process."""

    def __init__(self, trial: "optuna.Trial"):
        self._trial = trial
        self._reported = set(trial.study.trials[trial.number].intermediate_values)

    def should_prune(self, losses: dict[int, float]) -> bool:
        """Report new validation losses; return whether the pruner stops the trial.

        Args:
            losses: nats per target, by step.
        """
        for step, loss in losses.items():
            if step and step not in self._reported:
                self._trial.report(loss, step)
                self._reported.add(step)
        return self._trial.should_prune()


def open_trial(settings: dict[str, Any] | None, number: int) -> Trial | None:
    """Return the trial with that number; None if the sweep has no study.

    Args:
        settings: name, storage and pruner of the study.
        number: of the trial and its job.
    """
    if settings is None:
        return None
    optuna = load_optuna()
    pruner = build_pruner(settings["pruner"])
    study = optuna.load_study(
        study_name=settings["name"], storage=settings["storage"], pruner=pruner
    )
    return Trial(optuna.Trial(study, study.trials[number]._trial_id))


EXHAUSTED = "lmft.exhausted"  # attribute of a study: the space of which every point was tried


class Study:
    """A study; only one process at a time may run it."""

    def __init__(self, settings: dict[str, Any], sampler: dict[str, Any], seed: int):
        """Load the study, or create it.

        Args:
            settings: its name, storage and pruner, as `open_trial` takes them.
            sampler: by _target_.
            seed: of the sampler.

        Raises:
            UserError: sampler or pruner is none of Optuna's, or the storage can't be used.
        """
        from sqlalchemy.exc import ArgumentError, DBAPIError

        self._optuna = load_optuna()
        build_sampler(sampler, seed)  # a mistake in it must leave no study
        try:
            self._study = self._optuna.create_study(
                study_name=settings["name"],
                storage=settings["storage"],
                pruner=build_pruner(settings["pruner"]),
                load_if_exists=True,
            )
        except (ArgumentError, DBAPIError) as error:
            reason = first_line(error)
            raise UserError(
                f"hydra.sweeper.storage is {settings['storage']!r}, which can't be used "
                f"({reason}); set it to sqlite:////path/study.db, or leave it out."
            ) from error
        self._space = ""  # of the last trials, as text
        # With the same seed, a second launch would repeat the points of the first.
        self._sampler, self._seed = sampler, seed + len(self._study.trials)
        self._study.sampler = build_sampler(sampler, self._seed)

    def count(self, state: str) -> int:
        """Return the number of trials in that state, by Optuna's name of it."""
        return sum(trial.state.name == state for trial in self._study.trials)

    def check(self, space: dict[str, Any]) -> None:
        """Check that the space fits the sampler and earlier trials; its bounds may be others.

        Raises:
            UserError: the sampler can't draw from it, or a knob has other choices, or values of
                another kind.
        """
        try_sampler(self._sampler, self._seed, space)
        for trial in self._study.trials:
            for knob in trial.distributions.keys() & space.keys():
                try:
                    self._optuna.distributions.check_distribution_compatibility(
                        trial.distributions[knob], space[knob]
                    )
                except ValueError:
                    raise UserError(
                        f"{knob} has other choices, or values of another kind, than in earlier "
                        "trials of the study; start a new one with hydra.sweeper.study_name=NAME."
                    ) from None

    def next_trials(
        self, space: dict[str, Any], n_jobs: int, n_trials: int
    ) -> dict[int, dict[str, Value]]:
        """Return the values of the trials to run now, by number; none if all have ended.

        Trials that a killed process left RUNNING come first: they resume with their old numbers.
        The numbers are consecutive, as Hydra's launchers need them.

        Args:
            space: a distribution for each knob.
            n_jobs: trials to run at once, at most.
            n_trials: trials of the study, over all launches.
        """
        running = self._running()
        try:
            with refused_as("sampler", self._sampler):
                return self._draw(space, running[:n_jobs], n_jobs, n_trials)
        except UserError:  # of a sampler that fails on what earlier trials have left
            for trial in self._running():
                if trial.number not in [before.number for before in running]:
                    self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            raise

    def _running(self) -> list[Any]:
        return [trial for trial in self._study.trials if trial.state.name == "RUNNING"]

    def _draw(
        self, space: dict[str, Any], running: list[Any], n_jobs: int, n_trials: int
    ) -> dict[int, dict[str, Value]]:
        trials = [self._optuna.Trial(self._study, trial._trial_id) for trial in running]
        left = n_trials + self.count("WAITING") - len(self._study.trials)
        self._space = repr(sorted(space.items()))
        if self._study.user_attrs.get(EXHAUSTED) == self._space:
            left = 0
        trials += [self._study.ask() for _ in range(min(left, n_jobs - len(trials)))]
        trials.sort(key=lambda trial: trial.number)
        return {
            # As study.ask(space) does; of a resumed trial this returns the values that it had.
            trial.number: {knob: trial._suggest(knob, drawn) for knob, drawn in space.items()}
            for position, trial in enumerate(trials)
            if trial.number == trials[0].number + position  # the others come with the next call
        }

    def tell(self, number: int, state: str, loss: float) -> None:
        """Tell Optuna how a trial ended: finished with this validation loss, pruned, or failed."""
        states = self._optuna.trial.TrialState
        ended = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(state, states.FAIL)
        try:
            self._study.tell(number, loss if ended is states.COMPLETE else None, ended)
        except RuntimeError as error:
            if not wants_to_stop(error):
                raise
            self._study.set_user_attr(EXHAUSTED, self._space)

    def best(self) -> "BestTrial | None":
        """Return the finished trial with the lowest loss; None if none has finished."""
        if not self.count("COMPLETE"):
            return None
        best = self._study.best_trial
        assert best.value is not None
        return BestTrial(best.number, TokenLoss(best.value, 1), best.params)


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a study."""

    number: int
    loss: TokenLoss  # validation; of one target, so that its mean is the run's
    values: dict[str, Value]


def load_optuna() -> Any:
    """Import optuna, without its log line for each trial.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "hydra/sweeper=optuna needs Optuna, which is not installed; pip install 'lmft[optuna]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
