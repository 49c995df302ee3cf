"""The `lmft` command. Nothing heavy is imported before it is known what to run."""

import gc
import os
import sys
from importlib import import_module
from typing import Any

from lmft.commands.arguments import parse_line
from lmft.commands.console import DONE, exit_code, prepare, report
from lmft.commands.requeue import describe_stop
from lmft.commands.verbs import VERBS, Verb
from lmft.commands.workers import follow, leading
from lmft.errors import Interrupted
from lmft.hardware.ranks import is_rank_zero
from lmft.output.streams import open_closed_descriptors
from lmft.signals import end_at_signals


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        return run_line()
    finally:
        end_at_signals()


def run_line() -> int:
    """Run the command line; return the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        from lmft.commands.completion import complete_line

        complete_line()
    words = sys.argv[1:]
    open_closed_descriptors()
    prepare()
    try:
        arguments = parse_line(words)
        os.getcwd()  # raises if the folder was deleted, where libraries would abort
    except SystemExit:  # by argparse, after it printed what was asked for
        return DONE
    except Interrupted as interrupted:
        return stop(interrupted, can_resume=False)
    except Exception as error:  # the same one in all processes of a group
        return report(error) if is_rank_zero() else exit_code(error)
    try:
        if arguments.verb is not None:
            load(VERBS[arguments.verb]).main(arguments)
            return DONE
        if not is_rank_zero():
            return follow()
        gc.disable()  # until all is imported: that leaves no garbage, and collecting takes a tenth
        with leading():
            from lmft.commands.hydra_app import train

            return train(arguments)
    except Interrupted as interrupted:
        return stop(interrupted, can_resume=arguments.verb is None)
    except Exception as error:
        return report(error)


def stop(interrupted: Interrupted, can_resume: bool) -> int:
    """Print what follows after a signal; return the exit code."""
    print(f"lmft: {describe_stop(interrupted, can_resume)}", file=sys.stderr)
    return 128 + interrupted.signal_number


def load(verb: Verb) -> Any:
    """Import the module of a verb; if that takes seconds, show what is loaded."""
    module = f"lmft.commands.{verb.module}"
    if not verb.loads_torch or module in sys.modules:
        return import_module(module)
    from lmft.output.terminal import Terminal

    with Terminal().status("loading torch and transformers"):
        gc.disable()  # as for training
        try:
            return import_module(module)
        finally:
            gc.freeze()  # modules are never garbage, also when the process ends
            gc.enable()
