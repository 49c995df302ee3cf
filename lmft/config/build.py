"""Turn the config that Hydra composed into typed, checked, real objects."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lmft.config.allowlist import check_config
from lmft.config.knobs import flatten
from lmft.config.ranges import check_ranges
from lmft.config.schema import RunConfig, knobs
from lmft.errors import UserError

MAY_BE_EMPTY = {name for name, declared in knobs() if declared.get("may_be_empty")}


def check_types(composed: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    """Return the composed config typed and resolved, and as plain values to be logged and hashed.

    Types are checked here and not while Hydra composes, so that `--help`, `-c job` and tab
    completion stay quick. Nothing that the config names is imported yet.

    Args:
        composed: a config that `check_config` accepts, as all that lmft composes or loads.

    Raises:
        UserError: a value is missing or out of range, or a `_target_` is not allowed.
    """
    typed: DictConfig = OmegaConf.merge(OmegaConf.structured(RunConfig), composed)  # type: ignore[assignment]
    missing = sorted(OmegaConf.missing_keys(typed))
    if missing:
        raise UserError(f"{missing[0]} has no value; set {missing[0]}=...")
    OmegaConf.resolve(typed)
    OmegaConf.set_readonly(typed, True)
    values: dict[str, Any] = OmegaConf.to_container(typed, enum_to_str=True)  # type: ignore[assignment]
    check_config(values)  # once more, with interpolations resolved
    check_ranges(values)
    for name, value in flatten(values).items():
        if value == "" and name not in MAY_BE_EMPTY:
            raise UserError(f"{name} has no value; set {name}=..., or leave it out.")
    return typed, values


def build(typed: DictConfig | dict[str, Any]) -> Any:
    """Return the real object that a typed config, or one group of it, describes.

    Raises:
        UserError: a value is refused.
    """
    return instantiate(typed, _convert_="object")
