"""An Optuna study, as its jobs see it: is this trial still worth going on with?"""

from typing import Any

from lmft.config import build


class Trial:
    """One trial, from whatever process its job runs in."""

    def __init__(self, trial: Any):
        self._trial = trial
        self._reported = set(trial.study.trials[trial.number].intermediate_values)

    def should_prune(self, losses: dict[int, float]) -> bool:
        """Report validation losses (nats per target, by step), and ask the study's pruner."""
        for step, loss in losses.items():
            if step and step not in self._reported:
                self._trial.report(loss, step)
                self._reported.add(step)
        return bool(self._trial.should_prune())


def open_trial(study: dict[str, Any] | None, number: int) -> Trial | None:
    """The trial of that number; None where the sweep has no study."""
    if study is None:
        return None
    import optuna

    found = optuna.load_study(
        study_name=study["name"], storage=study["storage"], pruner=build(study["pruner"])
    )
    return Trial(optuna.trial.Trial(found, found.trials[number]._trial_id))
