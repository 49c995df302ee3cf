"""A disk that is full at any write: a clear message, and afterwards the same command resumes."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lmft.storage.checksums import CHECKSUMS
from tests.helpers.corpus import write_corpus
from tests.helpers.mlflow import Store
from tests.helpers.processes import fork, run_command, start, warm_up
from tests.helpers.runs import read_result, repeatable_metrics

RUN = [
    "model=gpt2_tiny", "model.config={n_layer:1,n_embd:32,n_head:2}", "dataset.block_size=16",
    "trainer.batch_size=8", "trainer.max_steps=5", "trainer.evaluate_every=2",
    "trainer.checkpoint_every=2", "optimizer.lr=1e-2", "hardware=cpu", "cache_root=cache",
]  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR


class Filling:
    """Counts the moments at which something is about to be written below `folder`.

    From moment `number` on the kernel lets no file grow in this process, as on a full disk; native
    code, which tells Python nothing, fails there too: a folder is made for it just before.
    """

    def __init__(self, folder, number, moments):
        self.folder, self.number, self.moments = folder, number, moments
        self.seen = []

    def __call__(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & WRITES:
                return
        elif event in ("os.mkdir", "os.rename"):
            path = arguments[0]
        else:
            return
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith(self.folder) and path != self.moments:
            self.seen.append(f"{event} {path.removeprefix(self.folder)}")
            if len(self.seen) == self.number:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            elif self.number is None:
                with open(self.moments, "w") as file:
                    file.write("\n".join(self.seen))


def run_on_filling_disk(line, folder, log, number, moments):
    sys.addaudithook(Filling(f"{folder}/", number, moments))
    run_command(line, folder, log, {})


def run_filling(line, folder, number):
    """Exit code and output of the command on a disk that is full from moment `number` on."""
    pipe = folder.parent / f"{folder.name}.pipe"  # which takes output though no file may grow
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    moments = str(folder.parent / "moments")
    process = fork(run_on_filling_disk, line, str(folder), str(pipe), number, moments)
    process.join(100)
    printed = b"".join(iter(lambda: os.read(reader, 2**16), b"")).decode()
    os.close(reader)
    pipe.unlink()
    return process.exitcode, printed


def outcome(root):
    """What must not depend on whether the disk was full in between."""
    (folder,) = root.glob("runs/*-*")
    sums = {path.name: path.read_bytes() for path in folder.glob("sums-*.parquet")}
    assert sums and (folder / "card.md").exists() and not (folder / "checkpoints").exists()
    rubbish = [path for path in root.rglob(".*-new")] + [path for path in root.rglob(".*-old")]
    assert not rubbish
    # The README of the weights has a date.
    weights = (folder / "checkpoint" / "model.safetensors").read_bytes()
    return weights, repeatable_metrics(folder), read_result(folder), sums


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The command, its outcome on a disk that is never full, and the moments at which it writes."""
    warm_up()
    root = tmp_path_factory.mktemp("straight")
    line = " ".join([*RUN, *write_corpus(root), "tracker=none"])
    (root / "run").mkdir()
    code, printed = run_filling(line, root / "run", None)
    assert code == 0, printed
    return line, outcome(root / "run"), (root / "moments").read_text().splitlines()


def check_filling(number, expected, folder):
    line, straight, moments = expected
    folder.mkdir()
    code, printed = run_filling(line, folder, number)
    if number < len(moments):  # after the last one all is written
        said = [words for words in printed.splitlines() if "No space left" in words]
        assert code == 1 and len(said) == 1, (moments[number - 1], printed)
        assert said[0].startswith(f"lmft: No space left on the disk for {folder}/")
        assert "Traceback" not in printed and "Error" not in printed
    code, printed = run_filling(line, folder, None)
    assert code == 0, printed
    assert outcome(folder) == straight, moments[number - 1]


@pytest.mark.parametrize("where", ["mkdir .*/.step-4-new", "rename .*sums-.*parquet-new"])
def test_after_a_full_disk_the_same_command_resumes_to_the_same_bits(where, expected, tmp_path):
    found = [number for number, some in enumerate(expected[2], 1) if re.search(where, some)]
    check_filling(found[0], expected, tmp_path / "run")


@pytest.mark.soak
def test_a_run_survives_a_full_disk_at_every_write(expected, tmp_path):
    writes = {Path(some).name for some in expected[2]}
    assert {".state.json-new", ".best-2-new", "ids.bin", ".result.json-new", ".card.md-new",
            ".run.json-new", ".samples.json-new", "metrics.jsonl", CHECKSUMS} <= writes  # fmt: skip
    print(f"{len(expected[2])} moments of writing")
    for number in range(1, len(expected[2]) + 1):
        check_filling(number, expected, tmp_path / str(number))


LARGE = ["model.config={n_layer:4,n_embd:128,n_head:2}", "hardware.precision=fp32"]


def run_with_small_files(line, folder, log, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    run_command(line, folder, log, {})


def test_a_run_whose_checkpoint_does_not_fit_fails_and_then_finishes(
    corpus, tmp_path, store_at_hand
):
    warm_up()
    line, log = " ".join([*RUN, *LARGE, *corpus]), tmp_path / "log"
    limit = 2 * (tmp_path / "mlflow.db").stat().st_size  # less than weights and optimizer
    process = fork(run_with_small_files, line, str(tmp_path), str(log), limit)
    process.join(100)
    (folder,) = tmp_path.glob("runs/*-*")
    printed = log.read_text()
    assert process.exitcode == 1, printed
    assert re.search(f"No space left on the disk for {folder}/checkpoints/[a-z]+-2; free", printed)
    found = Store(tmp_path).run_of(folder)
    assert found.info.status == "FAILED" and "No space left" in found.data.tags["reason"]
    process = start(line, tmp_path, log)
    process.join(100)
    assert process.exitcode == 0 and Store(tmp_path).run_of(folder).info.status == "FINISHED"


@pytest.mark.soak
@pytest.mark.parametrize("size", range(1, 40, 2))  # of 64 KiB
def test_a_run_on_a_small_disk_finishes_when_it_is_enlarged(size, expected, tmp_path):
    line, straight, _ = expected
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount(disk, f"size={64 * size}k")
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("mounting is not allowed here")
    try:
        (process := start(line, disk, tmp_path / "log")).join(100)
        printed = (tmp_path / "log").read_text()
        assert process.exitcode in (0, 1), printed
        assert (process.exitcode == 1) == (f"No space left on the disk for {disk}/" in printed)
        assert "Traceback" not in printed
        mount(disk, "remount,size=64m")
        (process := start(line, disk, tmp_path / "log")).join(100)
        assert process.exitcode == 0, (tmp_path / "log").read_text()
        assert outcome(disk) == straight
    finally:
        subprocess.run(["umount", disk], check=True)


def mount(path, options):
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
    subprocess.run(words, check=True, capture_output=True)
