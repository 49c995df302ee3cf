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

from lmft.commands.console import describe, prepare
from lmft.errors import Fault, Interrupted, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CHANGED_LOGGERS = ("", "lmft", "hydra", "mlflow", "mlflow.store.db.utils", "transformers")


@contextmanager
def as_library() -> Iterator[None]:
    """Run the body as the command line does, and leave nothing behind.

    Raises:
        UserError: a mistake, in the command line's sentence.
        Fault: a problem of the machine, likewise.
        KeyboardInterrupt: SIGINT arrived; a run has saved a checkpoint. SIGTERM is sent on.
    """
    stopped_by = None
    with restored_process():
        prepare()
        try:
            yield
        except Interrupted as interrupted:
            stopped_by = interrupted.signal_number
        except Exception as error:
            explained = explain(error)
            if explained is error:
                raise
            raise explained from None
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped_by is not None:
        signal.raise_signal(stopped_by)


def explain(error: Exception) -> Exception:
    """Return the error with the command line's sentence if that has one, else the error itself."""
    from lmft.config.error_messages import as_user_error
    from lmft.errors import as_fault

    explained = as_user_error(error) or as_fault(error) or error
    sentence = describe(error)
    if isinstance(explained, UserError | Fault) and str(explained) != sentence:
        return (UserError if isinstance(explained, UserError) else Fault)(sentence)
    return explained


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore signal handlers, environment, logging, warnings and the state of loaded libraries."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for restored in (_signals, _environment, _logging, _garbage, _hydra, _transformers, _torch):
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
    try:
        yield
    finally:
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
    from omegaconf.basecontainer import BaseContainer

    hydra, config = GlobalHydra.instance(), HydraConfig.instance()
    caller, caller_config, resolvers = hydra.hydra, config.cfg, dict(BaseContainer._resolvers)
    hydra.clear()  # Hydra composes for one caller at a time
    try:
        yield
    finally:
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
