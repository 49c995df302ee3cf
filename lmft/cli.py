"""The `lmft` command: which story to tell. Nothing heavy is imported until one is chosen."""

import gc
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lmft.commands.console import (
    DONE,
    FAILED,
    describe,
    exit_code,
    prepare,
    redacted_output,
    report,
)
from lmft.commands.preload import load_torch_ahead
from lmft.config import CONF
from lmft.errors import Interrupted, Refused, RunLocked, UserError, did_you_mean
from lmft.hardware.ranks import is_distributed, is_rank_zero

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBS = {  # each with the module that tells its story
    "evaluate": "evaluate",
    "compare": "compare",
    "verify": "verify",
    "profile": "profiling",
    "plan": "plan",
    "generate": "generate",
    "runs": "runs",
    "clean": "clean",
    "sync": "sync",
}


def main() -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        from lmft.commands.help import help_text

        print(help_text(CONF))
        return DONE
    prepare()
    verb = bool(words) and words[0].isidentifier()
    try:
        if verb:
            tell(words[0], words[1:])
            return DONE
        return lead() if is_rank_zero() else follow()
    except Interrupted as stopped:
        print(f"lmft: stopped{'' if verb else '; the same command goes on'}.", file=sys.stderr)
        return 128 + stopped.signal_number
    except Exception as error:
        return report(error)


def tell(verb: str, words: list[str]) -> None:
    """Run the story of a verb."""
    if verb not in VERBS:
        raise UserError(
            f"There is no verb {verb!r}; lmft KNOB=VALUE ... trains, see lmft --help."
            + did_you_mean(verb, VERBS)
        )
    from importlib import import_module

    import_module(f"lmft.commands.{VERBS[verb]}").tell(words, CONF)


def lead() -> int:
    """Train, and let the processes beside this one end with it; returns the exit code."""
    try:
        return train()
    except Exception as error:
        if is_distributed():
            from lmft.hardware.process_group import join

            join().say(describe(error))
        raise
    finally:
        if is_distributed():
            from lmft.hardware.process_group import join

            join().end()


def follow() -> int:
    """Do what the leader does; returns the exit code."""
    from lmft.hardware.process_group import join
    from lmft.trainer import worker as crew

    try:
        crew.follow()
    except Exception as error:
        if not join().is_said(str(error)):
            raise
        return exit_code(error)
    finally:
        join().leave()
    return DONE


def train() -> int:
    """Let Hydra compose a config, or several, and train on each; returns the exit code."""
    gc.disable()  # until all is imported: that leaves no rubbish, and the search takes a tenth
    import hydra

    from lmft.commands.train import run_job
    from lmft.config.compose import check_flags, register_resolvers
    from lmft.sweep import callback as sweep

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    # Our ray.yaml stands beside the plug-in's own config of that name; nothing is wrong with it.
    warnings.filterwarnings("ignore", "(?s).*validated against ConfigStore schema")
    register_resolvers()
    # Wherever a person wrote a flag: argparse wants it before or after all overrides.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: re.match(r"-m$|--\w", word) is None)
    check_flags(sys.argv[1:])
    failures: list[Exception | None] = []  # of each job that was started in this process

    def job(composed: "DictConfig") -> float | None:
        try:
            failures.append(None)
            return run_job(composed)
        except Exception as error:  # kept from Hydra, which would add lines of its own
            failures[-1] = error
            return None

    whole = False
    load_torch_ahead()
    try:
        with redacted_output():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        whole = True
    except Refused as refused:
        if isinstance(refused.error, RunLocked):
            sweep.leave()
        raise refused.error from None
    except Exception as error:
        if failures:
            raise
        raise as_refusal(error) from error
    finally:
        succeeded = sweep.close(whole)
    if failures and failures[-1] is not None:
        raise failures[-1]
    return DONE if succeeded else FAILED


def as_refusal(error: Exception) -> Exception:
    """What Hydra met before any job began, in our words."""
    from lmft.config.error_messages import as_mistake
    from lmft.errors import refused_place

    if isinstance(error, OSError) and error.filename:  # Hydra makes a folder there
        return refused_place("run_root", error, Path())
    return as_mistake(error, CONF, composing=True) or error
