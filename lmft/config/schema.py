"""The config of a run as typed objects: all groups, and what each knob decides.

The knobs of a group are in the modules beside this one. Nothing heavy is imported here, so that a
finished run can answer before torch is loaded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from lmft.config.dataset_knobs import DatasetConfig
from lmft.config.knob_metadata import Decides, count, knob
from lmft.config.model_knobs import NO_ADAPTER, AdapterConfig, ModelConfig
from lmft.config.training_knobs import EvaluationConfig, HardwareConfig, TrainerConfig


@dataclass
class RunConfig:
    """All groups, and what belongs to none."""

    dataset: DatasetConfig
    model: ModelConfig
    adapter: AdapterConfig = field(metadata=knob(formerly=NO_ADAPTER))
    objective: Any  # an lmft.objective.Objective, by _target_
    optimizer: Any  # a torch.optim.Optimizer that awaits its parameters, by _target_
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    hardware: HardwareConfig
    # an lmft.tracker.Tracker, by _target_
    tracker: Any = field(metadata=knob(decides=Decides.location))
    # a run whose weights this one begins with: folder, name in run_root or MLflow id
    from_run: str | None = field(metadata=knob(formerly=None))
    seed: int = field(metadata=knob(count(0, most=2**63 - 1)))
    run_root: str = field(metadata=knob(decides=Decides.location))
    cache_root: str = field(metadata=knob(decides=Decides.location))
    fresh: bool = field(metadata=knob(decides=Decides.location))
    debug: bool = field(metadata=knob(decides=Decides.location))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a whole batch; the last one of an epoch may be shorter."""
        return self.trainer.batch_size * self.dataset.block_size


def knobs(schema: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each knob of the schema by its full name, with what `knob` declared of it.

    Groups come as well, before their knobs.
    """
    types = get_type_hints(schema)
    for declared in fields(schema):
        name = f"{prefix}{declared.name}"
        yield name, declared.metadata
        if is_dataclass(group := types[declared.name]) and isinstance(group, type):
            yield from knobs(group, f"{name}.")


def decides(name: str) -> Decides:
    """Return what a knob decides, by its full name; one not listed decides what its group does."""
    while name:
        if "decides" in (declared := _DECLARED.get(name, {})):
            return Decides(declared["decides"])
        name = name.rpartition(".")[0]
    return Decides.numbers


def is_as_before(name: str, value: Any) -> bool:
    """Return whether this value of a knob is what runs did before the knob existed."""
    return name in FORMERLY and bool(FORMERLY[name] == value)


_DECLARED = dict(knobs())
# Knobs that are younger than some runs -> what those runs did.
FORMERLY = {
    name: declared["formerly"] for name, declared in _DECLARED.items() if "formerly" in declared
}
