"""The workers of a process group: rank 0 leads, the others run the jobs that it shares.

torchrun or `local_launch` starts the processes; both end up here.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lmft.commands.console import DONE, FAILED, describe, exit_code, report
from lmft.errors import UserError, as_fault
from lmft.hardware.ranks import is_distributed
from lmft.signals import HANDLED


@contextmanager
def leading() -> Iterator[None]:
    """Run the body on rank 0; the other ranks learn its error, and end with it."""
    if not is_distributed():
        yield
        return
    from lmft.hardware.process_group import join_process_group

    try:
        yield
    except Exception as error:
        join_process_group().say(describe(error))
        raise
    finally:
        join_process_group().end()


def follow() -> int:
    """Run the jobs that rank 0 shares until it ends; return the exit code."""
    from lmft.config.compose import register_resolvers
    from lmft.hardware.process_group import GroupEnded, is_connection_lost, join_process_group
    from lmft.trainer.train import train_as_worker

    for number in HANDLED:  # rank 0 handles them, after the step
        signal.signal(number, signal.SIG_IGN)
    register_resolvers()
    group = join_process_group()
    try:
        while True:
            with suppress(FloatingPointError):  # raised on rank 0 too, which reports it
                train_as_worker(group.share())
    except GroupEnded:
        return DONE
    except Exception as error:
        if is_connection_lost(error):  # another rank has failed, and says so itself
            return FAILED
        explained = error if isinstance(error, UserError) else as_fault(error)
        group.fail(str(explained or f"{type(error).__name__}: {error}"))
        return exit_code(error) if group.is_said(str(error)) else report(error)
    finally:
        group.leave()
        # The launcher waits for every process, and ends by a signal those that still wait for it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
