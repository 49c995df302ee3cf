"""The `lmft` command: which story to tell. Nothing heavy is imported until one is chosen."""

import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lmft.errors import Stopped, UserError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

PLACES = (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf")
CONF = next(place for place in PLACES if place.is_dir())  # of an installed wheel, or a checkout
DONE, FAILED, MISTAKE = 0, 1, 2
VERBS = {  # each with the module that tells its story
    "evaluate": "evaluate",
    "compare": "compare",
    "generate": "generate",
    "runs": "list_runs",
    "clean": "clean",
}


class JobFailed(Exception):
    """A job of a sweep failed, and has said so."""


def main() -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        from lmft.help import help_text

        print(help_text(CONF))
        return DONE
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    _keep_libraries_quiet()
    try:
        if words and words[0].isidentifier():
            tell(words[0], words[1:])
        else:
            train()
    except Stopped as stopped:
        print("lmft: stopped.", file=sys.stderr)
        return 128 + stopped.signal_number
    except JobFailed:
        return FAILED
    except Exception as error:
        return report(error)
    return DONE


def tell(verb: str, words: list[str]) -> None:
    """Run the story of a verb."""
    if verb not in VERBS:
        raise UserError(
            f"There is no verb {verb!r}; lmft KNOB=VALUE ... trains, see lmft --help."
            + did_you_mean(verb, VERBS)
        )
    from importlib import import_module

    import_module(f"lmft.{VERBS[verb]}").tell(words, CONF)


def train() -> None:
    """Let Hydra compose a config, or several, and train on each."""
    import hydra

    from lmft.compose import register_resolvers

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    register_resolvers()
    failures: list[Exception | None] = []  # of each job that was started

    def job(composed: "DictConfig") -> float | None:
        try:
            failures.append(None)
            return run_job(composed)
        except JobFailed:
            raise
        except Exception as error:  # kept from Hydra, which would add lines of its own
            failures[-1] = error
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except Exception as error:
        if failures:
            raise
        from lmft.mistakes import as_mistake

        raise as_mistake(error, CONF, composing=True) or error from error
    if failures and failures[-1] is not None:
        raise failures[-1]


def run_job(composed: "DictConfig") -> float:
    """One run of a composed config; returns its lowest validation loss, in nats per token."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    files = {
        "config.yaml": OmegaConf.to_yaml(composed),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(overrides)),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.structured(settings)),
    }
    with suppress(OSError):  # Hydra's folder for the job, in which it was told to put nothing
        os.rmdir(settings.runtime.output_dir)
    if settings.mode is not RunMode.MULTIRUN:
        return _train_on(composed, files)
    print(f"\nJob {settings.job.num}: {' '.join(overrides)}", flush=True)
    try:
        return _train_on(composed, files)
    except Exception as error:  # the other jobs go on
        report(error)
        raise JobFailed from error


def _train_on(composed: "DictConfig", files: dict[str, str]) -> float:
    from lmft.config import read_config
    from lmft.terminal import Terminal
    from lmft.train import run

    config, values = read_config(composed)
    return run(config, values, files, Terminal())


def report(error: Exception) -> int:
    """Say in one sentence what went wrong; returns the exit code."""
    from lmft.mistakes import as_mistake

    mistake = as_mistake(error, CONF)
    if "debug=true" in sys.argv:
        traceback.print_exception(error)
    if mistake is not None:
        print(f"lmft: {mistake}", file=sys.stderr)
        return MISTAKE
    reason = str(error).strip() or "no reason given"
    print(f"lmft: {type(error).__name__}: {reason}", file=sys.stderr)
    if "debug=true" not in sys.argv:
        print("lmft: debug=true shows where.", file=sys.stderr)
    return FAILED


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """Unwind the stack, so that what is open is closed on the way."""
    raise Stopped(signal_number)


def _keep_libraries_quiet() -> None:
    """Only our own voice, and warnings; no library looks for the network to count its users."""
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    # Threads that wait must not spin: beside another busy process that made steps ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("lmft: %(message)s"))
    logging.getLogger().addHandler(console)
