"""An Optuna study: what its sweep asks and tells, and what a job asks of its trial."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmft.config.allowlist import check_search
from lmft.config.build import build
from lmft.errors import UserError
from lmft.metrics import TokenLoss

if TYPE_CHECKING:
    import optuna

Value = float | int | str

NEVER = {"_target_": "optuna.pruners.NopPruner"}


class Trial:
    """One trial, from whatever process its job runs in."""

    def __init__(self, trial: "optuna.Trial"):
        self._trial = trial
        self._reported = set(trial.study.trials[trial.number].intermediate_values)

    def should_prune(self, losses: dict[int, float]) -> bool:
        """Report new validation losses (nats per target, by step), and ask the study's pruner."""
        for step, loss in losses.items():
            if step and step not in self._reported:
                self._trial.report(loss, step)
                self._reported.add(step)
        return self._trial.should_prune()


def open_trial(study: dict[str, Any] | None, number: int) -> Trial | None:
    """The trial of that number; None where the sweep has no study."""
    if study is None:
        return None
    optuna = load_optuna()
    check_search({"pruner": study["pruner"]})
    found = optuna.load_study(
        study_name=study["name"], storage=study["storage"], pruner=build(study["pruner"])
    )
    return Trial(optuna.Trial(found, found.trials[number]._trial_id))


class Study:
    """A study, from the one process that leads it."""

    def __init__(self, facts: dict[str, Any], sampler: dict[str, Any], seed: int):
        """Go on with the study that `facts` names, or begin it.

        Args:
            facts: its name, storage and pruner, as `open_trial` takes them.
            sampler: by _target_.
            seed: of the sampler.

        Raises:
            UserError: the sampler or pruner is none of Optuna's, or there is no such storage.
        """
        from sqlalchemy.exc import ArgumentError, DBAPIError

        self._optuna = load_optuna()
        check_search({"sampler": sampler, "pruner": facts["pruner"]})
        try:
            self._study = self._optuna.create_study(
                study_name=facts["name"],
                storage=facts["storage"],
                pruner=build(facts["pruner"]),
                load_if_exists=True,
            )
        except (ArgumentError, DBAPIError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"hydra.sweeper.storage is {facts['storage']!r}, which can't be used ({reason}); "
                "write sqlite:////path/study.db, or leave it out."
            ) from error
        # With the same seed again, a second launch would repeat the points of the first.
        self._study.sampler = build({**sampler, "seed": seed + len(self._study.trials)})

    def count(self, state: str) -> int:
        """Trials in that state, by Optuna's name for it."""
        return sum(trial.state.name == state for trial in self._study.trials)

    def check(self, space: dict[str, Any]) -> None:
        """The space may have other bounds than before, but no other kind of values.

        Raises:
            UserError: it has.
        """
        for trial in self._study.trials:
            for knob in trial.distributions.keys() & space.keys():
                try:
                    self._optuna.distributions.check_distribution_compatibility(
                        trial.distributions[knob], space[knob]
                    )
                except ValueError:
                    raise UserError(
                        f"{knob} has other choices, or is of another kind, than the study has "
                        "tried so far; hydra.sweeper.study_name=... begins one of that name."
                    ) from None

    def next_trials(
        self, space: dict[str, Any], at_once: int, in_all: int
    ) -> dict[int, dict[str, Value]]:
        """The trials to run now, with consecutive numbers, and their values; none: all have ended.

        Those that a killed process left RUNNING come first, under their old numbers, and go on.
        """
        trials = [
            self._optuna.Trial(self._study, trial._trial_id)
            for trial in self._study.trials
            if trial.state.name == "RUNNING"
        ][:at_once]
        left = in_all + self.count("WAITING") - len(self._study.trials)
        trials += [self._study.ask() for _ in range(min(left, at_once - len(trials)))]
        trials.sort(key=lambda trial: trial.number)
        return {
            # As study.ask would; of a trial that was cut off it gives the values that it had.
            trial.number: {knob: trial._suggest(knob, drawn) for knob, drawn in space.items()}
            for place, trial in enumerate(trials)
            if trial.number == trials[0].number + place  # others have their turn next
        }

    def tell(self, number: int, state: str, loss: float) -> None:
        """What became of a trial: finished with this validation loss, pruned, or else failed."""
        states = self._optuna.trial.TrialState
        told = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(state, states.FAIL)
        self._study.tell(number, loss if told is states.COMPLETE else None, told)

    def best(self) -> "Best | None":
        """The finished trial of the lowest loss; None as long as none has finished."""
        if not self.count("COMPLETE"):
            return None
        best = self._study.best_trial
        assert best.value is not None
        return Best(best.number, TokenLoss(best.value, 1), best.params)


@dataclass(frozen=True)
class Best:
    """The best trial of a study."""

    number: int
    loss: TokenLoss  # validation; of one target, so that its mean is the run's
    values: dict[str, Value]


def load_optuna() -> Any:
    """Optuna, not telling of each trial.

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
