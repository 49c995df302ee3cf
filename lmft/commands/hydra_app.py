"""Let Hydra compose a config, or several, and train on each: `lmft` and `lmft -m`."""

import os
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser

from lmft.commands.arguments import parse_line
from lmft.commands.console import DONE, FAILED, redacted_output
from lmft.commands.preload import preload_torch
from lmft.commands.train import run_job
from lmft.config import CONF
from lmft.config.compose import register_resolvers
from lmft.config.error_messages import as_user_error
from lmft.config.guarded_loader import guarded_hydra
from lmft.config.quoting import quote_texts
from lmft.errors import Refused, RunLocked, UserError, unwritable_path_error
from lmft.output.sanitize import remember_secrets
from lmft.sweep import callback

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmft.sweep.callback import ClosedSweep

Job = Callable[["DictConfig"], float | None]


def train(arguments: Namespace) -> int:
    """Train on what the command line says; return the exit code.

    Args:
        arguments: as `parse_line` returns them.

    Raises:
        UserError: something in a config can't be done.
    """
    check_multirun(arguments)
    preload_torch()
    sweep = run_jobs(arguments)
    return DONE if sweep is None or sweep.succeeded else FAILED


def multirun(words: list[str]) -> "ClosedSweep":
    """Run a sweep, as `lmft -m WORDS...` does; `sys.argv` is not read.

    Raises:
        UserError: a word can't be used.
    """
    arguments = parse_line(["-m", *words])
    if arguments.verb is not None:
        raise UserError(f"{arguments.verb!r} is not KNOB=VALUE; see lmft --help.")
    check_multirun(arguments)
    remember_secrets(words)
    sweep = run_jobs(arguments, raises_last=False)
    assert sweep is not None
    return sweep


def check_multirun(arguments: Namespace) -> None:
    """Refuse a sweep over nothing.

    Raises:
        UserError: it is one.
    """
    if arguments.multirun and not (arguments.words or arguments.config_name):
        raise UserError("-m needs a knob with several values, as in lmft -m seed=0,1.")


def run_jobs(arguments: Namespace, raises_last: bool = True) -> "ClosedSweep | None":
    """Train on each config that Hydra composes; return the sweep, if it is one.

    Args:
        arguments: as `parse_line` returns them.
        raises_last: raise the error of the job that ran last in this process.
    """
    failures: list[Exception | None] = []  # of each job that was started in this process

    def job(composed: "DictConfig") -> float | None:
        try:
            failures.append(None)
            return run_job(composed)
        except Exception as error:  # kept from Hydra, which would add lines of its own
            failures[-1] = error
            return None

    complete = False
    try:
        run_hydra(job, arguments)
        complete = True
    except Refused as refused:
        if isinstance(refused.error, RunLocked):
            callback.release_current()
        raise as_user_error(refused.error) or refused.error from None
    except Exception as error:
        if failures:
            raise
        raise explain(error) from error
    finally:
        sweep = callback.close_current(complete)
    if raises_last and failures and failures[-1] is not None:
        raise failures[-1]
    return sweep


def run_hydra(job: Job, arguments: Namespace) -> None:
    """Call `job` with each config, as `hydra.main` would; its flags are in `arguments`."""
    register_resolvers()
    version.setbase("1.3")
    overrides = quote_texts(arguments.words, sweep=arguments.multirun)
    names = {"run": arguments.run_once, "overrides": overrides}  # those of Hydra
    flags = {"help": False, "hydra_help": False, "shell_completion": False}  # not Hydra's to answer
    with (
        raised_as_they_are(),
        redacted_output() if arguments.cfg or arguments.info else nullcontext(),
        guarded_hydra(),
    ):
        _run_hydra(
            args=Namespace(**vars(arguments), **names, **flags),
            args_parser=get_args_parser(),
            task_function=job,
            config_path=str(CONF),
            config_name="config",
        )


@contextmanager
def raised_as_they_are() -> Iterator[None]:
    """Let Hydra raise errors as they are, without a warning about our ray.yaml.

    It is beside the plug-in's own config of that name; that is intended.
    """
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*validated against ConfigStore schema")
            yield
    finally:
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def explain(error: Exception) -> Exception:
    """Return what Hydra raised before any job began as an error with the way out."""
    if isinstance(error, OSError) and error.filename:  # Hydra creates a folder there
        return unwritable_path_error("run_root", error, Path())
    return as_user_error(error, composing=True) or error
