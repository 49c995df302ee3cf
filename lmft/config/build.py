"""Turn the config that Hydra composed into typed, checked, real objects."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lmft.config.allowlist import check_config
from lmft.config.knobs import flatten
from lmft.config.ranges import check_ranges
from lmft.config.schema import (
    RunConfig,
)
from lmft.errors import UserError

MAY_BE_EMPTY = ("dataset.separator",)


def check_types(composed: DictConfig) -> DictConfig:
    """The composed config, typed and sealed; nothing that it names is imported yet.

    Types are checked here, at the door, and not while Hydra composes: so `--help`, `-c job` and
    tab completion stay quick.

    Raises:
        UserError: a value is missing or out of range, or a `_target_` is not one of ours.
    """
    check_config(composed)
    typed: DictConfig = OmegaConf.merge(OmegaConf.structured(RunConfig), composed)  # type: ignore[assignment]
    OmegaConf.set_readonly(typed, True)
    missing = sorted(OmegaConf.missing_keys(typed))
    if missing:
        raise UserError(f"{missing[0]} has no value; set {missing[0]}=...")
    values = as_values(typed)
    check_config(values)  # what interpolations came to as well
    check_ranges(values)
    for knob, value in flatten(values).items():
        if value == "" and knob not in MAY_BE_EMPTY:
            raise UserError(f"{knob} has no value; set {knob}=..., or leave it out.")
    return typed


def as_values(typed: DictConfig) -> dict[str, Any]:
    """A typed config as plain values, to be logged and hashed."""
    values: dict[str, Any] = OmegaConf.to_container(typed, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    return values


def build(typed: DictConfig | dict[str, Any]) -> Any:
    """The real object that a typed config, or one group of it, describes.

    Raises:
        UserError: a value is refused.
    """
    return instantiate(typed, _convert_="object")


def read_config(composed: DictConfig) -> tuple[RunConfig, dict[str, Any]]:
    """The composed config as real objects, and as plain values.

    Raises:
        UserError: a value is missing or refused, or a `_target_` is not one of ours.
    """
    typed = check_types(composed)
    return build(typed), as_values(typed)
