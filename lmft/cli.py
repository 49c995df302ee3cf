"""The `lmft` command. Nothing heavy is imported before it is known what to run."""

import gc
import os
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lmft.commands.arguments import VERBS, parse_words, verb_parser
from lmft.commands.console import (
    DONE,
    FAILED,
    prepare,
    redacted_output,
    report,
)
from lmft.commands.preload import preload_torch
from lmft.commands.workers import follow, leading
from lmft.config import CONF
from lmft.errors import Interrupted, Refused, RunLocked
from lmft.hardware.ranks import is_rank_zero

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> int:
    """Run the command line; return the exit code."""
    words = sys.argv[1:]
    verb = words[0] if words and words[0].isidentifier() else None
    prepare()
    try:
        if {"--help", "-h"} & set(words):
            print(help_of(verb))
        elif "--version" in words:
            print(f"lmft {installed_version()}")
        elif verb:
            run_verb(verb, words[1:])
        else:
            if not is_rank_zero():
                return follow()
            with leading():
                return train()
        return DONE
    except Interrupted as interrupted:
        way_out = "" if verb else "; the same command resumes"
        print(f"lmft: stopped{way_out}.", file=sys.stderr)
        return 128 + interrupted.signal_number
    except Exception as error:
        return report(error)


def help_of(verb: str | None) -> str:
    """Return the help of a verb; of the whole command without one."""
    from lmft.commands.help import help_text

    return help_text() if verb is None else verb_parser(verb).format_help().rstrip()


def installed_version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import version

    return version("lmft")


def run_verb(verb: str, words: list[str]) -> None:
    """Run a verb of the command line."""
    arguments = parse_words(verb, words)
    import_module(f"lmft.commands.{VERBS[verb].module}").main(arguments)


def train() -> int:
    """Let Hydra compose a config, or several, and train on each; return the exit code."""
    gc.disable()  # until all is imported: that leaves no garbage, and collecting takes a tenth
    import hydra

    from lmft.commands.train import run_job
    from lmft.config.compose import check_flags, guarded_hydra, register_resolvers
    from lmft.sweep import callback

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors as they are
    # Our ray.yaml is beside the plug-in's own config of that name; that is intended.
    warnings.filterwarnings("ignore", "(?s).*validated against ConfigStore schema")
    register_resolvers()
    # argparse accepts flags only before or after all overrides.
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

    complete = False
    preload_torch()
    try:
        with redacted_output(), guarded_hydra():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        complete = True
    except Refused as refused:
        if isinstance(refused.error, RunLocked):
            callback.release_current()
        raise refused.error from None
    except Exception as error:
        if failures:
            raise
        raise explain(error) from error
    finally:
        succeeded = callback.close_current(complete)
    if failures and failures[-1] is not None:
        raise failures[-1]
    return DONE if succeeded else FAILED


def explain(error: Exception) -> Exception:
    """Return what Hydra raised before any job began as an error with the way out."""
    from lmft.config.error_messages import as_user_error
    from lmft.errors import unwritable_path_error

    if isinstance(error, OSError) and error.filename:  # Hydra creates a folder there
        return unwritable_path_error("run_root", error, Path())
    return as_user_error(error, composing=True) or error
