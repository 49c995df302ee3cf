"""A whole run, typed: each room's own config, side by side."""

from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lmft.dataset import DatasetConfig
from lmft.errors import UserError
from lmft.evaluation import EvaluationConfig
from lmft.hardware import HardwareConfig
from lmft.identity import flatten
from lmft.model import ModelConfig
from lmft.trainer import TrainerConfig

# All that a config may name in `_target_`: ours, and torch's optimizers.
TARGETS = ("lmft.dataset.sources.", "lmft.objective.", "lmft.tracker.", "torch.optim.")


@dataclass
class RunConfig:
    """All groups, and what belongs to none."""

    dataset: DatasetConfig
    model: ModelConfig
    objective: Any  # an lmft.objective.Objective, by _target_
    optimizer: Any  # a torch.optim.Optimizer that awaits its parameters, by _target_
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    hardware: HardwareConfig
    tracker: Any  # an lmft.tracker.Tracker, by _target_
    seed: int
    run_root: str
    cache_root: str
    debug: bool


def read_config(composed: DictConfig) -> tuple[RunConfig, dict[str, Any]]:
    """The composed config as real objects, and as plain values to log.

    Types are checked here, at the door, and not while Hydra composes: so `--help`, `-c job` and
    tab completion need not import the rooms, with torch behind them.

    Raises:
        UserError: a value is missing or refused, or a `_target_` is not one of ours.
    """
    typed = OmegaConf.merge(OmegaConf.structured(RunConfig), composed)
    OmegaConf.set_readonly(typed, True)
    missing = sorted(OmegaConf.missing_keys(typed))
    if missing:
        raise UserError(f"{missing[0]} has no value; set {missing[0]}=...")
    values: dict[str, Any] = OmegaConf.to_container(typed, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    for key, target in flatten(values).items():
        if key.endswith("_target_") and not str(target).startswith(TARGETS):
            raise UserError(f"{key} is {target!r}; only {', '.join(TARGETS)}* may be named there.")
    config: RunConfig = instantiate(typed, _convert_="object")
    if not 0 <= config.seed < 2**63:
        raise UserError(f"seed must be a number from 0 to 2**63, not {config.seed}.")
    for part in (config.model, config.trainer, config.evaluation):
        part.check()
    return config, values
