"""Memory that really runs out: a message with the knobs, or smaller micro-batches."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from lmft.config.training_knobs import Precision
from lmft.errors import Fault, UserError
from lmft.hardware.allocator import peak_memory
from lmft.hardware.device import Hardware, choose_micro_batch_size
from lmft.runs.run import Run
from lmft.tracker.run_log import read_values
from tests.helpers.processes import fork, run_command, start, warm_up
from tests.helpers.runs import compose

RUN = (
    "model=gpt2_tiny model.config={n_layer:2,n_embd:128,n_head:2} dataset.block_size=128 "
    "trainer.batch_size=64 trainer.max_steps=2 model.dropout=0.1 hardware=cpu tracker=none "
    "hardware.precision=fp32 cache_root=cache trainer.evaluate_every=2 optimizer.lr=1e-3 "
    "evaluation.max_blocks=2"
)
ROOM = 2**20 * 200  # bytes: enough for the activations of some blocks, not of 64


def run_in_little_memory(line, folder, log, room):
    """Run the command with `room` more bytes of memory until it has found its micro-batch size."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # a stack for each core takes memory, too
    if room:
        with open("/proc/self/status") as file:
            used = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.RLIM_INFINITY))
        Thread(target=wait_and_lift, args=(Path(folder),), daemon=True).start()
    run_command(line, folder, log, {})


def wait_and_lift(folder):
    """Lift the limit then: Arrow alone takes a gigabyte when a run ends."""
    while not list(folder.glob("runs/*-*/micro_batch.json")):
        time.sleep(0.02)
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def run_scarce(line, folder, room=ROOM):
    """Exit code and output of the command with so little memory."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    process = fork(run_in_little_memory, line, str(folder), str(log), room)
    process.join(100)
    return process.exitcode, log.read_text()


def test_the_peak_is_of_this_program_and_not_of_the_one_that_started_it():
    held = np.ones(2**28, dtype=np.uint8)
    words = "from lmft.hardware.allocator import peak_memory; print(peak_memory())"
    found = subprocess.run([sys.executable, "-c", words], capture_output=True, check=True)
    assert 2**22 < int(found.stdout) < held.nbytes < peak_memory()


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    warm_up()
    root = tmp_path_factory.mktemp("corpus")
    words = "dataset=text_files model.vocab_size=300"
    for split, count in {"train": 2000, "validation": 100}.items():
        (root / f"{split}.txt").write_text("the cat sat on a mat and saw one dog\n" * 4 * count)
        words += f" dataset.{split}={root / f'{split}.txt'}"
    return f"{RUN} {words}"


def test_the_message_names_the_knobs(line, tmp_path):
    code, printed = run_scarce(f"{line} hardware.micro_batch_size=64", tmp_path)
    assert code == 1 and "Traceback" not in printed
    assert "lmft: Memory ran out on cpu with hardware.micro_batch_size=64; lower that (auto finds " \
        "what fits) or dataset.block_size, or add hardware.checkpoint_activations=true.\n" in printed  # fmt: skip # noqa: E501


def test_auto_halves_until_it_fits_and_resuming_repeats_it(line, tmp_path):
    auto = f"{line} hardware.micro_batch_size=auto trainer.checkpoint_every=1"
    code, printed = run_scarce(auto, tmp_path / "scarce")
    assert code == 0, printed
    (folder,) = (tmp_path / "scarce" / "runs").glob("*-*")
    sizes = json.loads((folder / "micro_batch.json").read_text())
    size = min(sizes.values())
    assert sizes.keys() == {"1"} and 1 <= size < 64
    assert f"retrying with hardware.micro_batch_size={size}." in printed
    # The very numbers of that size from the start, dropout and all.
    process = start(f"{line} hardware.micro_batch_size={size}", tmp_path)
    process.join(100)
    (straight,) = (tmp_path / "runs").glob("*-*")
    for key in ("train/loss", "train/grad_norm", "validation/loss"):
        assert dict(read_values(folder, key)) == dict(read_values(straight, key)), key
    weights = "checkpoint/model.safetensors"
    assert (folder / weights).read_bytes() == (straight / weights).read_bytes()
    # With memory for all of it, the same command keeps to what the run began with.
    (folder / "result.json").unlink()
    (folder / "metrics.jsonl").unlink()
    code, printed = run_scarce(auto, tmp_path / "scarce", room=0)
    assert code == 0 and dict(read_values(folder, "train/loss")) == dict(
        read_values(straight, "train/loss")
    )


def halving_hardware(size):
    """A CPU that halves its micro-batch, of `size` blocks at first, until it fits."""
    cpu = torch.device("cpu")
    return Hardware(cpu, Precision.fp32, size, False, False, auto_micro_batch_size=True)


def test_a_single_block_that_does_not_fit_fails():
    hardware = halving_hardware(5)
    tried = []

    def work():
        tried.append(hardware.micro_batch_size)
        return torch.empty(2**60, dtype=torch.uint8)  # more than any machine has

    with pytest.raises(Fault, match="even with hardware.micro_batch_size=1; lower dataset.block_"):
        hardware.halve_on_oom(work)
    assert tried == [5, 2, 1]


def test_a_failed_attempt_is_cleared_before_the_next():
    hardware = halving_hardware(4)
    left = []

    def work():
        left.append(hardware.micro_batch_size)
        if hardware.micro_batch_size > 2:
            torch.empty(2**60, dtype=torch.uint8)
        return list(left)

    assert hardware.halve_on_oom(work, left.clear) == [2]


def test_other_errors_are_not_retried():
    hardware = halving_hardware(4)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        hardware.halve_on_oom(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    assert hardware.micro_batch_size == 4


def test_several_processes_refuse_micro_batch_size_auto():
    _ = Run(compose("hardware=cpu", "hardware.micro_batch_size=auto")).config
    for strategy in ("ddp", "fsdp"):
        with pytest.raises(UserError, match=f"set it to a number with hardware={strategy}"):
            _ = Run(compose(f"hardware={strategy}", "hardware.micro_batch_size=auto")).config
    with pytest.raises(UserError, match="number from 1 to .*, or auto, or null, not 'many'"):
        _ = Run(compose("hardware=cpu", "hardware.micro_batch_size=many")).config


@pytest.mark.parametrize(
    ("device", "words", "size"),
    [
        ("cpu", (), 8),
        ("mps", (), 8),
        ("cuda", (), "auto"),
        ("cuda", ("hardware=ddp",), 8),
        ("cuda", ("hardware.micro_batch_size=3",), 3),
        ("cpu", ("hardware.micro_batch_size=auto",), "auto"),
    ],
)
def test_a_gpu_takes_as_many_blocks_as_fit_and_a_cpu_eight(device, words, size):
    config = Run(compose(*words)).config.hardware
    assert choose_micro_batch_size(config, torch.device(device)) == size
