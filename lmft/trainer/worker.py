"""Worker loop for ranks > 0."""

import signal
from contextlib import suppress

from omegaconf import DictConfig, OmegaConf

from lmft.config.build import read_config
from lmft.config.compose import register_resolvers
from lmft.dataset.splits import open_splits
from lmft.errors import UserError, as_fault
from lmft.hardware.process_group import ProcessGroup, join_process_group
from lmft.trainer.components import build_components
from lmft.trainer.engine import Engine
from lmft.trainer.step import NotFinite


def run_worker() -> None:
    """Call what rank 0 calls, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 handles them, after the step
        signal.signal(number, signal.SIG_IGN)
    register_resolvers()
    process_group = join_process_group()
    try:
        run_calls(process_group)
    except Exception as error:
        explained = error if isinstance(error, UserError) else as_fault(error)
        process_group.fail(str(explained or f"{type(error).__name__}: {error}"))
        raise


def run_calls(process_group: ProcessGroup) -> None:
    """Open an engine for each run, and call its methods as rank 0 does."""
    engine: Engine | None = None
    while (call := process_group.hear())["task"] != "end":
        if call["task"] == "open":
            del engine  # to free its memory first
            engine = open_engine(call["config"], call["precision"])
        else:
            assert engine is not None
            with suppress(NotFinite):  # raised on rank 0 too, which decides what to do
                getattr(engine, call["task"])(*call["arguments"])


def open_engine(config_yaml: str, precision: str | None) -> Engine:
    """Build the same engine as rank 0."""
    composed = OmegaConf.create(config_yaml)
    assert isinstance(composed, DictConfig)
    config, _ = read_config(composed)
    return Engine(config, build_components(config, open_splits(config.dataset), precision))
