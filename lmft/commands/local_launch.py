"""Start the processes of a run on this machine by torch's own launcher, as torchrun does."""

import json
import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any

from lmft.commands.console import FAILED, describe, prepare, print_traceback, set_line_prefix
from lmft.commands.workers import follow, leading
from lmft.config.error_messages import as_user_error
from lmft.errors import Fault, Interrupted, RunLocked, UserError, WorkerFailed, as_fault
from lmft.hardware.ranks import LOCALHOST, STORE_PORT, is_rank_zero, share_cores
from lmft.runs.run import Run
from lmft.signals import in_slurm, request_checkpoint

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

    from lmft.sweep.job import SweepJob, SweepPlan
    from lmft.sweep.records import JobRecord

ERROR, PID = "error.json", "pid"  # files of rank 0, for the process that started it
# The errors that pass from one process to another.
KINDS = (UserError, RunLocked, Fault, FloatingPointError, WorkerFailed)
# A function that trains in one of the processes, given the sweep's job if there is one.
Train = Callable[[Run, "SweepJob | None"], float]


def launch_processes(train: Train, count: int, run: Run, job: "SweepJob | None") -> float:
    """Call `train` in `count` processes; return the lowest validation loss.

    Raises:
        UserError: something in the config can't be done.
        RunLocked: another process is at the same run.
        Interrupted: by a signal.
        WorkerFailed: anything else ended it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # lmft reports it itself
    share_cores(count)
    store = open_store()
    os.environ |= {
        STORE_PORT: str(store.port),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": ",".join(ending_signals()),
    }
    parts = None if job is None else (job.record, job.plan)
    outcome: dict[str, Any]
    with TemporaryDirectory() as folder:
        error_file = Path(folder) / ERROR
        try:
            launched = elastic_launch(launch_config(count, store.port), run_process)
            with checkpoint_requests_forwarded(Path(folder) / PID):
                outcome = launched(train, run, parts, folder)[0]
        except SignalException as error:
            raise Interrupted(int(error.sigval)) from None
        except ChildFailedError:
            raise read_error(error_file) from None
    if job is not None:
        vars(job.record).update(vars(outcome["record"]))
    return float(outcome["loss"])


def launch_config(count: int, port: int) -> "LaunchConfig":
    """Return how torch's launcher starts `count` processes, which meet at the store on `port`."""
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOCALHOST}:{port}",
        rdzv_configs={"is_host": "false"},
        max_restarts=0,
    )


def ending_signals() -> list[str]:
    """Return the names of the signals that torch's launcher handles, and sends to the processes."""
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
        signals.append(signal.SIGHUP)
    if signal.getsignal(signal.SIGUSR1) is request_checkpoint and in_slurm():
        signals.append(signal.SIGUSR1)
    return [number.name for number in signals]


@contextmanager
def checkpoint_requests_forwarded(pid: Path) -> Iterator[None]:
    """Send rank 0, whose process id is in the file `pid`, the SIGUSR1 that arrives here."""
    handler = signal.getsignal(signal.SIGUSR1)
    if handler is not request_checkpoint:
        yield
        return

    def forward(number: int, frame: FrameType | None) -> None:
        if pid.exists() and (text := pid.read_text()):
            with suppress(ProcessLookupError):
                os.kill(int(text), number)

    if not in_slurm():  # there torch's launcher passes it on, and ends
        signal.signal(signal.SIGUSR1, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, handler)


def open_store() -> Any:
    """Open the key-value store of the processes on the loopback interface.

    torch's own would listen on all interfaces, without authentication.
    """
    import psutil
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listener = socket.create_server((LOCALHOST, 0))
    port = listener.getsockname()[1]
    loopback = next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == LOCALHOST for address in addresses)
    )
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    return TCPStore(
        LOCALHOST,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def run_process(
    train: Train, run: Run, parts: "tuple[JobRecord, SweepPlan] | None", folder: str
) -> dict[str, Any]:
    """Run one of the processes; return the loss and the record of the sweep's job."""
    from lmft.config.compose import register_resolvers

    prepare()
    register_resolvers()
    if not is_rank_zero():
        if code := follow():
            raise SystemExit(code)
        return {}
    (Path(folder) / PID).write_text(str(os.getpid()))
    try:
        with leading():
            job = None if parts is None else open_again(*parts)
            set_line_prefix(job.prefix if job else "")
            return {"loss": train(run, job), "record": job and job.record}
    except BaseException as error:
        write_error(error, Path(folder) / ERROR, run.typed.debug)
        raise SystemExit(FAILED) from None


def open_again(record: "JobRecord", plan: "SweepPlan") -> "SweepJob":
    """Return the sweep's job as the parent process opened it."""
    from lmft.sweep.job import SweepJob

    return SweepJob(record, plan)


def write_error(error: BaseException, path: Path, debug: bool) -> None:
    """Write what ended this process for the one that started it."""
    if isinstance(error, Interrupted):
        content: dict[str, Any] = {"signal": error.signal_number}
    elif isinstance(error, Exception):
        if debug:
            print_traceback(error)
        content = {"text": describe(error), "kind": kind_of(error).__name__}
    else:
        content = {"text": repr(error), "kind": WorkerFailed.__name__}
    path.write_text(json.dumps(content))


def read_error(path: Path) -> BaseException:
    """Return what `write_error` wrote, as an error."""
    if not path.exists():
        return WorkerFailed(
            "A process ended without an error message; was it short of memory? A Python script "
            'must call lmft under `if __name__ == "__main__":`.'
        )
    content = json.loads(path.read_text())
    if "signal" in content:
        return Interrupted(content["signal"])
    kinds = {kind.__name__: kind for kind in KINDS}
    return kinds[content["kind"]](content["text"])


def kind_of(error: Exception) -> type[Exception]:
    """Return which of `KINDS` an error is, or can be explained as."""
    explained = as_user_error(error) or as_fault(error) or error
    return next((kind for kind in KINDS if isinstance(explained, kind)), WorkerFailed)
