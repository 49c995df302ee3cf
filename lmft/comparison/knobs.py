"""The knobs of a run, and which of them tell runs apart."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmft.compose import load_composed
from lmft.errors import UserError

NOT_COMPARED = (  # where things lie, and what lmft evaluate was asked
    "tracker",
    "run_root",
    "cache_root",
    "debug",
    "evaluation.split",
    "evaluation.mask_draws",
    "evaluation.pseudo",
)
ONLY_SPEED = ("hardware.device", "hardware.micro_batch_size", "hardware.compile")
OF_TRAINING = ("trainer.", "optimizer", "seed", "hardware.")  # mean nothing without it
TRAINING = "training"  # the knob that says whether a run trained: yes or no
MISSING = object()  # unlike any value


def read_knobs(folder: Path) -> dict[str, Any]:
    """The composed config by full names, without what says only where things lie."""
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} has no .hydra/config.yaml, so it is no run's folder; check it.")
    values: dict[str, Any] = OmegaConf.to_container(load_composed(path), resolve=True)  # type: ignore[assignment]
    trained = (folder / "result.json").exists()
    dropped = NOT_COMPARED if trained else (*NOT_COMPARED, *OF_TRAINING)
    knobs = {name: v for name, v in by_knob(values).items() if not name.startswith(dropped)}
    return knobs | {TRAINING: "yes" if trained else "no"}


def by_knob(tree: dict[str, Any]) -> dict[str, Any]:
    """{"model": {"config": {"n_layer": 4}}} as {"model.config": {"n_layer": 4}}, as they are set.

    A group's `_target_` goes by the name of the group: {"optimizer": "AdamW"}.
    """
    knobs = {}
    for group, values in tree.items():
        if not isinstance(values, dict):
            knobs[group] = values
            continue
        for name, value in values.items():
            if name == "_target_":
                knobs[group] = str(value).rpartition(".")[2]
            else:
                knobs[f"{group}.{name}"] = value
    return knobs


def differing_knobs(runs: list[dict[str, Any]]) -> list[str]:
    """The knobs that have not the same value in all runs; of training, in all that were trained.

    Each run is given by its knobs.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    trained = [run for run in runs if run[TRAINING] == "yes"]
    differing = []
    for name in names:
        asked = trained if name.startswith(OF_TRAINING) else runs
        if len({repr(run.get(name, MISSING)) for run in asked}) > 1:
            differing.append(name)
    return differing
