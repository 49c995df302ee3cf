"""Worker loop for ranks > 0."""

import signal
from contextlib import suppress

from omegaconf import DictConfig, OmegaConf

from lmft.config.build import read_config
from lmft.config.compose import register_resolvers
from lmft.dataset.splits import open_splits
from lmft.errors import UserError, as_fault
from lmft.hardware.process_group import ProcessGroup, join
from lmft.trainer.components import build_components
from lmft.trainer.engine import Engine
from lmft.trainer.step import NotFinite


def follow() -> None:
    """Until the leader has nothing more to do."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the leader heeds them, after the step
        signal.signal(number, signal.SIG_IGN)
    register_resolvers()
    process_group = join()
    try:
        obey(process_group)
    except Exception as error:
        known = error if isinstance(error, UserError) else as_fault(error)
        process_group.fail(str(known or f"{type(error).__name__}: {error}"))
        raise


def obey(process_group: ProcessGroup) -> None:
    """Task after task."""
    engine: Engine | None = None
    while (told := process_group.hear())["task"] != "end":
        if told["task"] == "open":
            del engine  # before its successor needs memory
            engine = open_engine(told["config"], told["precision"])
        else:
            assert engine is not None
            with suppress(NotFinite):  # the leader sees the same, and says what is next
                getattr(engine, told["task"])(*told["arguments"])


def open_engine(config_yaml: str, precision: str | None) -> Engine:
    """As the leader opens its own."""
    composed = OmegaConf.create(config_yaml)
    assert isinstance(composed, DictConfig)
    config, _ = read_config(composed)
    return Engine(config, build_components(config, open_splits(config.dataset), precision))
