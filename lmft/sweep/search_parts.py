"""Make the sampler and the pruner of an Optuna study, and try them before a trial starts."""

import inspect
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lmft.config.allowlist import check_search
from lmft.config.build import build
from lmft.errors import UserError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

TRIED = 12  # trials: more than samplers draw at random before they propose values


def build_sampler(settings: Any, seed: int) -> "BaseSampler":
    """Return a sampler, by _target_.

    Raises:
        UserError: it is none of Optuna's, or does not take what it is given.
    """
    check_part("sampler", settings)
    if "seed" in settings:
        raise UserError("hydra.sweeper.sampler.seed can't be set; set hydra.sweeper.seed instead.")
    grid = settings.get("search_space")
    is_grid = isinstance(grid, dict) and all(isinstance(values, list) for values in grid.values())
    if settings["_target_"].endswith(".GridSampler") and not is_grid:
        raise UserError(
            "GridSampler needs a list of values for each knob; add "
            "'+hydra.sweeper.sampler.search_space={KNOB:[VALUE,VALUE]}'."
        )
    import optuna

    kind = getattr(optuna.samplers, settings["_target_"].rpartition(".")[2])
    if "seed" in inspect.signature(kind).parameters:
        settings = {**settings, "seed": seed}
    elif isinstance(base := settings.get("base_sampler"), dict):
        settings = {**settings, "base_sampler": {**base, "seed": seed}}
    with refused_as("sampler", settings):
        sampler: BaseSampler = build(settings)
    return sampler


def build_pruner(settings: Any) -> "BasePruner":
    """Return a pruner, by _target_.

    Raises:
        UserError: it is none of Optuna's, or does not take what it is given.
    """
    check_part("pruner", settings)
    with refused_as("pruner", settings):
        pruner: BasePruner = build(settings)
    return pruner


def check_part(name: str, settings: Any) -> None:
    """Refuse settings of a sampler or pruner that name none of Optuna's.

    Raises:
        UserError: with the knob, and the way out.
    """
    if not isinstance(settings, dict) or "_target_" not in settings:
        example = {"sampler": "samplers.TPESampler", "pruner": "pruners.MedianPruner"}[name]
        raise UserError(
            f"hydra.sweeper.{name} is {settings!r}, which names no {name}; set "
            f"hydra.sweeper.{name}._target_=optuna.{example}."
        )
    check_search({name: settings})


@contextmanager
def refused_as(name: str, settings: dict[str, Any]) -> "Iterator[None]":
    """Raise whatever Optuna raises as a sentence on the sampler or pruner.

    Raises:
        UserError: with the knob, and the way out.
    """
    from optuna.exceptions import ExperimentalWarning

    target = settings["_target_"]
    try:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            yield
    except Exception as error:
        cause: BaseException = error
        while (next_cause := cause.__cause__ or cause.__context__) is not None:
            cause = next_cause
        if isinstance(cause, ImportError):
            raise UserError(
                f"{target} needs the package {cause.name}, which is not installed; pip install "
                "'lmft[optuna]'."
            ) from error
        reason = first_line(cause)
        raise UserError(
            f"hydra.sweeper.{name} can't be used: {reason}; fix what it is given as "
            f"+hydra.sweeper.{name}.ARGUMENT=VALUE, or choose another than {target}."
        ) from error


def try_sampler(settings: dict[str, Any], seed: int, space: dict[str, Any]) -> None:
    """Draw trials from a sampler in memory, so that no trial of a study starts in vain.

    Raises:
        UserError: the sampler can't search this space.
    """
    check_space(settings, space)
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the study itself will warn
    try:
        with warnings.catch_warnings(action="ignore"), refused_as("sampler", settings):
            study = optuna.create_study(sampler=build_sampler(settings, seed))
            for _ in range(TRIED):
                trial = study.ask(space)
                try:
                    study.tell(trial, 1 / (1 + trial.number))
                except RuntimeError as error:
                    if not wants_to_stop(error):
                        raise
                    break
    finally:
        optuna.logging.set_verbosity(verbosity)


def wants_to_stop(error: RuntimeError) -> bool:
    """Return whether a trial has ended, and the sampler has no other point."""
    return "Study.stop" in str(error)


def check_space(settings: dict[str, Any], space: dict[str, Any]) -> None:
    """Refuse a space that has no end, or a grid of other knobs, where that matters.

    Raises:
        UserError: with the knob, and the way out.
    """
    target = settings["_target_"].rpartition(".")[2]
    if target == "BruteForceSampler":
        for knob, drawn in space.items():
            if getattr(drawn, "step", 1) is None:
                raise UserError(
                    f"{knob} is an interval without a step, of which BruteForceSampler can't try "
                    f"every value; set {knob}=range(START,STOP,STEP) or choice(...), or choose "
                    "another sampler."
                )
    if target == "GridSampler":
        grid = settings["search_space"]
        for knob in sorted(grid.keys() ^ space.keys()):
            problem = "has no values of" if knob in space else "has values of"
            way_out = "add some" if knob in space else f"remove them, or search {knob}, too"
            raise UserError(f"hydra.sweeper.sampler.search_space {problem} {knob}; {way_out}.")
