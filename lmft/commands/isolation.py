"""Call lmft within somebody else's process: restore afterwards what a command sets up for good."""

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lmft.commands.console import describe, prepare
from lmft.commands.requeue import describe_stop
from lmft.errors import Fault, Interrupted, RunLocked, UserError, WorkerFailed, as_fault
from lmft.signals import HANDLED

EXPLAINED = (UserError, Fault, RunLocked, WorkerFailed, FloatingPointError)
ONE_CALL = threading.RLock()  # what a call sets up belongs to the whole process
SIGNALS = (*HANDLED, signal.SIGQUIT)  # SIGQUIT: torch's launcher handles it
CHANGED_LOGGERS = (
    "",
    "lmft",
    "huggingface_hub",
    "hydra",
    "mlflow",
    "mlflow.store.db.utils",
    "torch.distributed.elastic",
    "torch.multiprocessing",
    "transformers",
)


@contextmanager
def as_library() -> Iterator[None]:
    """Run the body as the command line does, and leave nothing behind; calls in threads take turns.

    Raises:
        UserError: a mistake, in the command line's sentence.
        Fault: a problem of the machine, likewise.
        KeyboardInterrupt: SIGINT arrived; a run has saved a checkpoint.
        Interrupted: another signal arrived, likewise, and a handler of the caller has returned.
    """
    stopped: Interrupted | None = None
    with ONE_CALL, restored_process():
        prepare()
        try:
            yield
        except Interrupted as interrupted:
            stopped = interrupted
            if stopped.signal_number == signal.SIGUSR1:
                print(f"lmft: {describe_stop(stopped)}", file=sys.stderr)
        except Exception as error:
            if (explained := explain(error)) is None:
                raise
            raise explained from None  # the sentence says it all
    if stopped is not None and stopped.signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped is not None:
        signal.raise_signal(stopped.signal_number)
        raise stopped


def explain(error: Exception) -> Exception | None:
    """Return the error with the command line's sentence; None if it has none."""
    from lmft.config.error_messages import as_user_error

    explained = as_user_error(error) or as_fault(error) or error
    if not isinstance(explained, EXPLAINED):
        return None
    sentence = describe(error)
    if isinstance(explained, UserError | Fault) and str(explained) != sentence:
        return (UserError if isinstance(explained, UserError) else Fault)(sentence)
    return explained


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore streams, signals, environment, logging, warnings and the state of libraries."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, in notebooks
        for restored in RESTORED:
            stack.enter_context(restored())
        yield


@contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: not installed by Python
                signal.signal(number, handler)


@contextmanager
def _streams() -> Iterator[None]:
    streams = sys.stdin, sys.stdout, sys.stderr
    try:
        yield
    finally:
        for replaced in {sys.stdout, sys.stderr} - set(streams):
            replaced.flush()
        sys.stdin, sys.stdout, sys.stderr = streams


@contextmanager
def _environment() -> Iterator[None]:
    variables = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ |= variables


@contextmanager
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {n: logging.getLogger(n).level for n in CHANGED_LOGGERS}
    # A run logs more to its file than the caller's own handlers are meant to show.
    shown = root.level

    def is_for_caller(record: logging.LogRecord) -> bool:
        return record.levelno >= shown

    for handler in handlers:
        handler.addFilter(is_for_caller)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_for_caller)
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _garbage() -> Iterator[None]:
    """Collect garbage meanwhile."""
    was_enabled = gc.isenabled()
    gc.enable()
    try:
        yield
    finally:
        if not was_enabled:
            gc.disable()


@contextmanager
def _hydra() -> Iterator[None]:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from omegaconf.basecontainer import BaseContainer

    hydra, config = GlobalHydra.instance(), HydraConfig.instance()
    caller, caller_config, resolvers = hydra.hydra, config.cfg, dict(BaseContainer._resolvers)
    hydra.clear()  # Hydra composes for one caller at a time
    try:
        yield
    finally:
        instances: Any = Singleton._instances  # Hydra may have put others there
        instances |= {GlobalHydra: hydra, HydraConfig: config}
        hydra.hydra, config.cfg, BaseContainer._resolvers = caller, caller_config, resolvers


@contextmanager
def _transformers() -> Iterator[None]:
    was_loaded = "transformers" in sys.modules
    bars = True
    if was_loaded:
        from transformers.utils.logging import is_progress_bar_enabled

        bars = is_progress_bar_enabled()
    try:
        yield
    finally:
        if "transformers" in sys.modules and bars:
            from transformers.utils.logging import enable_progress_bar

            enable_progress_bar()


@contextmanager
def _torch() -> Iterator[None]:
    """Restore the random generators; those of a torch that was not loaded are as new."""
    was_loaded = "torch" in sys.modules
    states = []
    if was_loaded:
        import torch

        on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if on_cuda else [])]
    try:
        yield
    finally:
        if "torch" in sys.modules:
            import torch

            torch.set_rng_state(states[0] if states else torch.Generator().get_state())
            if states[1:]:
                torch.cuda.set_rng_state_all(states[1:])


RESTORED = (
    _streams,
    _signals,
    _environment,
    _logging,
    _garbage,
    _hydra,
    _transformers,
    _torch,
)
