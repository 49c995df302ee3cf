"""Starting the processes of a team on this machine, by torch's own launcher: what torchrun does."""

import json
import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lmft.commands.console import (
    BUSY,
    FAILED,
    MISTAKE,
    describe,
    exit_code,
    prepare,
    report,
    show_traceback,
)
from lmft.errors import Interrupted, RunLocked, UserError, WorkerFailed
from lmft.hardware.ranks import LOCAL, STORE, is_rank_zero, share_cores

if TYPE_CHECKING:
    from lmft.sweep.job import OpenJob

# Trains on a composed config, with Hydra's files about it and the sweep's job, if it is one's.
Run = Callable[[DictConfig, dict[str, str], "OpenJob | None"], float]


def run_together(
    go: Run, count: int, composed: DictConfig, files: dict[str, str], job: "OpenJob | None"
) -> float:
    """Let `go` run a composed config in `count` processes; returns its lowest validation loss.

    Raises:
        UserError: something in the config can't be done.
        Busy: another process is at the same run.
        Stopped: by a signal.
        TeamFailed: anything else ended it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we say it ourselves
    share_cores(count)
    store = open_store()
    os.environ |= {STORE: str(store.port), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{store.port}",
        rdzv_configs={"is_host": "false"},
        max_restarts=0,
    )
    note = None if job is None else asdict(job.note)
    told: dict[str, Any]
    with TemporaryDirectory() as folder:
        last_words = Path(folder) / "error.json"
        try:
            told = elastic_launch(settings, work)(go, composed, files, note, str(last_words))[0]
        except SignalException as signal:
            raise Interrupted(int(signal.sigval)) from None
        except ChildFailedError:
            raise read_error(last_words) from None
    if job is not None:
        vars(job.note).update(told["note"])
    return float(told["loss"])


def open_store() -> Any:
    """The meeting place of the processes, which only this machine can reach.

    torch would let its own listen to all the world; nothing there asks who is speaking.
    """
    import psutil
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listener = socket.create_server((LOCAL, 0))
    port = listener.getsockname()[1]
    loopback = next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == LOCAL for address in addresses)
    )
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    return TCPStore(
        LOCAL,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def work(
    go: Run,
    composed: DictConfig,
    files: dict[str, str],
    note: dict[str, Any] | None,
    last_words: str,
) -> dict[str, Any]:
    """One of the processes; returns the loss, and what became of the sweep's job."""
    from lmft.config.compose import register_resolvers
    from lmft.hardware.process_group import join

    prepare()
    register_resolvers()
    if not is_rank_zero():
        from lmft.trainer.worker import follow

        try:
            follow()
        except Exception as error:
            said = join().is_said(str(error))
            raise SystemExit(exit_code(error) if said else report(error)) from None
        finally:
            join().leave()
        return {}
    try:
        job = None if note is None else open_again(note, files)
        return {"loss": go(composed, files, job), "note": job and asdict(job.note)}
    except BaseException as error:
        write_error(error, Path(last_words))
        raise SystemExit(FAILED) from None
    finally:
        join().end()


def open_again(note: dict[str, Any], files: dict[str, str]) -> "OpenJob":
    """The sweep's job, as the process that started this one opened it."""
    from lmft.sweep.job import Note, OpenJob, read_plan

    launch = Path(OmegaConf.create(files["hydra.yaml"]).sweep.dir)
    return OpenJob(Note(**note), read_plan(launch.expanduser().absolute()))


def write_error(error: BaseException, path: Path) -> None:
    """What ended a process, for the one that started it."""
    from lmft.hardware.process_group import join

    if isinstance(error, Interrupted):
        told: dict[str, Any] = {"signal": error.signal_number}
    elif isinstance(error, Exception):
        if "debug=true" in sys.argv:
            show_traceback(error)
        told = {"text": describe(error), "code": exit_code(error)}
        join().say(told["text"])
    else:
        told = {"text": repr(error), "code": FAILED}
    path.write_text(json.dumps(told))


def read_error(path: Path) -> BaseException:
    """What `write_error` wrote, as an error."""
    if not path.exists():
        return WorkerFailed("A process ended without a word; was it short of memory?")
    told = json.loads(path.read_text())
    if "signal" in told:
        return Interrupted(told["signal"])
    kinds: dict[int, type[Exception]] = {MISTAKE: UserError, BUSY: RunLocked}
    return kinds.get(told["code"], WorkerFailed)(told["text"])
