"""Several processes have the numbers, checkpoints and exit codes of one."""

import ipaddress
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from lmft.config.build import check_types
from lmft.errors import UserError
from lmft.hardware.ranks import count_processes, share_cores
from lmft.tracker.run_log import read_values
from tests.helpers.processes import kill, start, wait_for, warm_up
from tests.helpers.runs import compose

TRAINED = (  # 13 blocks in batches of 5: the last batch is smaller, and its last block is short
    "hardware.device=cpu hardware.precision=fp32 model.dropout=0 dataset=text_files "
    "dataset.block_size=16 trainer.batch_size=5 trainer.evaluate_every=4 model.vocab_size=300 "
    "trainer.schedule=constant trainer.epochs=500 run_root=runs "
    "cache_root=cache tracker=none optimizer.lr=1e-3"
)
LINES = ["the cat sat on a mat\n", "and saw one red dog run by\n", "so the dog sat down\n"]


@dataclass
class Ranks:
    """The processes that torchrun would start."""

    processes: list
    log: Path

    def end(self, seconds=60):
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]


def start_ranks(count, line, folder, follower_folder=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    process_group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = []
    for rank in range(count):
        environment = process_group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        place_of = follower_folder if rank and follower_folder else folder
        processes.append(start(line, place_of, log, environment))
    return Ranks(processes, log)


def run_ranks(count, line, folder, seconds=100):
    """Run the command in `count` processes; returns the run's folder."""
    folder.mkdir(exist_ok=True)
    if count == 1:
        (process := start(line, folder, folder / "log")).join(seconds)
        codes = [process.exitcode]
    else:
        codes = start_ranks(count, line, folder).end(seconds)
    assert codes == [0] * count, (folder / "log").read_text()
    (run,) = (folder / "runs").glob("*-*")
    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    warm_up()
    root = tmp_path_factory.mktemp("corpus")
    (root / "train.txt").write_text("".join(LINES[i % 3] for i in range(24)))
    (root / "valid.txt").write_text("".join(LINES[i % 3] for i in range(9)))
    return f"{TRAINED} dataset.train={root / 'train.txt'} dataset.validation={root / 'valid.txt'}"


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """A run in one process, for each objective."""
    return {
        objective: run_ranks(1, f"{corpus} {objective} trainer.max_steps={steps}", folder)
        for objective, steps in (("objective=clm", 40), ("objective=mlm model=bert_tiny", 8))
        for folder in [tmp_path_factory.mktemp("alone")]
    }


@pytest.mark.parametrize(
    ("count", "strategy", "objective"),
    [
        (2, "fsdp", "objective=mlm model=bert_tiny"),  # ddp: the sweep below
        *(
            pytest.param(count, strategy, objective, marks=pytest.mark.soak)
            for count in (2, 3)
            for strategy in ("ddp", "fsdp")
            for objective in ("objective=clm", "objective=mlm model=bert_tiny")
        ),
    ],
)
def test_losses_are_those_of_one_process(count, strategy, objective, corpus, alone, tmp_path):
    line = f"{corpus} {objective} hardware={strategy} trainer.max_steps=8"
    if objective == "objective=clm":
        line += " hardware.micro_batch_size=1"  # gradients add up over several passes
    assert_same(run_ranks(count, line, tmp_path), alone[objective])


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_processes_have_the_losses_of_one(strategy, corpus, alone, tmp_path):
    line = f"{corpus} objective=clm hardware={strategy} hardware.compile=true trainer.max_steps=8"
    run = run_ranks(2, line, tmp_path, seconds=600)  # torch needs a minute, and more beside others
    assert_same(run, alone["objective=clm"])


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_documents_of_a_block_have_the_losses_of_one_process(strategy, corpus, tmp_path):
    line = f"{corpus} dataset.document=line dataset.packing=documents dataset.attention=document "
    line += "objective=clm trainer.max_steps=8"
    alone = run_ranks(1, line, tmp_path / "alone")
    assert_same(run_ranks(2, f"{line} hardware={strategy}", tmp_path / "together"), alone)


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_adapters_have_the_losses_of_one_process(strategy, adapter, corpus, stories, tmp_path):
    line = f"{corpus} model=pretrained model.name={stories} adapter={adapter} adapter.rank=4 "
    line += "objective=clm trainer.max_steps=8"
    alone = run_ranks(1, line, tmp_path / "alone")
    assert_same(run_ranks(2, f"{line} hardware={strategy}", tmp_path / "together"), alone)


@pytest.mark.soak
def test_gradients_of_several_bf16_passes_add_up_in_fp32(corpus, tmp_path):
    line = f"{corpus} hardware.precision=bf16 hardware.micro_batch_size=1 trainer.max_steps=8"
    alone = run_ranks(1, line, tmp_path / "alone")
    assert_same(run_ranks(2, f"{line} hardware=ddp", tmp_path / "together"), alone)


@pytest.mark.soak
def test_a_state_that_shards_left_is_continued_by_any_number_of_processes(corpus, tmp_path):
    line = f"{corpus} objective=clm trainer.shuffle=false trainer.keep_state=true"
    whole = run_ranks(1, f"{line} trainer.max_steps=9", tmp_path / "whole")
    source = run_ranks(2, f"{line} hardware=fsdp trainer.max_steps=6", tmp_path / "source")
    expected = [loss for step, loss in dict(read_values(whole, "train/loss")).items() if step > 6]
    line = f"{line.replace('model.vocab_size=300', '')} from_run={source} trainer.max_steps=3"
    for count, strategy in ((1, "none"), (2, "ddp"), (2, "fsdp")):
        words = f"{line} hardware.strategy={strategy}"
        run = run_ranks(count, words, tmp_path / f"{count}-{strategy}")
        found = list(dict(read_values(run, "train/loss")).values())
        assert found == pytest.approx(expected, rel=1e-5)


def assert_same(run, expected_run, steps=8):
    for key in ("train/loss", "train/grad_norm", "validation/loss", "validation/targets"):
        curve = dict(read_values(expected_run, key))
        expected = {step: value for step, value in curve.items() if step <= steps}
        assert expected and dict(read_values(run, key)) == pytest.approx(expected, rel=1e-5), key
    (path,) = (run / "checkpoint").glob("*.safetensors")
    with safe_open(path, "pt") as ours:
        with safe_open(expected_run / "checkpoint" / path.name, "pt") as theirs:
            assert set(ours.keys()) == set(theirs.keys())


def steps_of(folder):
    return sum(path.read_text().count("\n") for path in folder.glob("runs/*-*/metrics.jsonl"))


def test_a_signal_leaves_a_checkpoint_and_any_number_of_processes_reads_it(corpus, alone, tmp_path):
    line = f"{corpus} objective=clm trainer.max_steps=40 trainer.checkpoint_every=3"
    process_group = start_ranks(2, f"{line} hardware=fsdp", tmp_path)
    wait_for(lambda: steps_of(tmp_path) >= 5)
    for process in process_group.processes:  # as torchrun does
        os.kill(process.pid, signal.SIGTERM)
    assert process_group.end() == [143, 0]
    states = tmp_path.glob("runs/*-*/checkpoints/step-*/state.json")
    last = max(json.loads(state.read_text())["progress"]["step"] for state in states)
    assert last >= 4
    before = steps_of(tmp_path)
    single = start(line, tmp_path, tmp_path / "log")
    wait_for(lambda: steps_of(tmp_path) >= before + 7)
    kill(single)
    run = run_ranks(2, f"{line} hardware=ddp", tmp_path)
    assert (tmp_path / "log").read_text().count("Resuming from step") == 2
    found = dict(read_values(run, "train/loss"))
    assert list(found) == list(range(1, 41))
    assert found == pytest.approx(dict(read_values(alone["objective=clm"], "train/loss")), rel=1e-4)


def test_a_process_that_fails_ends_all_and_its_message_is_printed(corpus, tmp_path):
    (tmp_path / "train.txt").write_text("".join(LINES) * 5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()  # where there is no such file
    ranks = start_ranks(2, f"{corpus} hardware=ddp dataset.train=train.txt", tmp_path, elsewhere)
    assert ranks.end() == [1, 2]
    assert "lmft: Process 1 of 2: 'train.txt' is not there" in ranks.log.read_text()


def test_a_mistake_that_all_processes_share_is_reported_once(corpus, tmp_path):
    ranks = start_ranks(2, f"{corpus} hardware=ddp model.config={{n_head:7}}", tmp_path)
    assert ranks.end() == [2, 2]
    said = [line for line in ranks.log.read_text().splitlines() if line.startswith("lmft: ")]
    assert len(said) == 1 and said[0].startswith("lmft: No model can be built")


def test_processes_share_the_cores_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for said, threads in (("3", "3"), (None, "4")):
        with monkeypatch.context() as environment:
            environment.delenv("OMP_NUM_THREADS")
            if said:
                environment.setenv("OMP_NUM_THREADS", said)
            share_cores(2)
            assert os.environ["OMP_NUM_THREADS"] == threads


def test_one_process_that_is_killed_ends_all_and_the_run_has_failed(corpus, tmp_path, store):
    words = f"{corpus} hardware=ddp trainer.max_steps=1000 {' '.join(store.overrides)}"
    ranks = start_ranks(2, words, tmp_path)
    wait_for(lambda: steps_of(tmp_path) >= 5)
    kill(ranks.processes[1])
    assert ranks.end()[0] == 1
    (run,) = tmp_path.glob("runs/*-*")
    found = store.run_of(run)
    assert found.info.status == "FAILED" and "Another process ended" in found.data.tags["reason"]


def test_a_sweep_runs_each_job_once_with_the_losses_of_one_process(corpus, alone, tmp_path, store):
    words = (
        f"-m {corpus} objective=clm hardware=ddp trainer.max_steps=8 seed=0,1 "
        f"hardware.micro_batch_size=1 {' '.join(store.overrides)}"  # several passes a step
    )
    assert start_ranks(2, words, tmp_path).end() == [0, 0], (tmp_path / "log").read_text()
    runs = [path.parent for path in tmp_path.glob("runs/*-*/metrics.jsonl")]
    assert len(runs) == 2
    for run in runs:
        assert store.run_of(run).info.status == "FINISHED"
        assert list(store.points(run, "train/loss")) == list(range(1, 9))
    (first,) = [run for run in runs if "seed=1" not in overrides_of(run)]
    assert_same(first, alone["objective=clm"])


def overrides_of(run):
    return (run / ".hydra" / "overrides.yaml").read_text()


def test_a_number_of_processes_that_torchrun_contradicts_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (
        count_processes(check_types(compose("hardware=ddp"))[0].hardware) == 1
    )  # none is to be started
    with pytest.raises(UserError, match="processes is 3, but torchrun started 2 on this machine"):
        count_processes(check_types(compose("hardware=ddp", "hardware.processes=3"))[0].hardware)


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_that_lmft_starts_itself(strategy, corpus, alone, tmp_path):
    words = f"{corpus} objective=clm trainer.max_steps=8 hardware={strategy} hardware.processes=2"
    assert_same(run_ranks(1, words, tmp_path), alone["objective=clm"])
    process = start(f"{words} model.config={{n_head:7}}", tmp_path, tmp_path / "wrong")
    process.join(100)
    assert process.exitcode == 2
    said = (tmp_path / "wrong").read_text().splitlines()
    said = [line for line in said if line.startswith("lmft: ")]
    assert len(said) == 1 and said[0].startswith("lmft: No model can be built")


@pytest.mark.soak
def test_a_sweep_of_processes_that_lmft_starts_and_one_of_its_jobs_fails(corpus, alone, tmp_path):
    words = f"-m {corpus} objective=clm trainer.max_steps=8 hardware=ddp hardware.processes=2"
    began = time.monotonic()
    process = start(f"{words} optimizer.lr=1e-3,1e30", tmp_path, tmp_path / "log")
    process.join(100)
    assert process.exitcode == 1 and time.monotonic() - began < 60
    (run,) = [path.parent for path in tmp_path.glob("runs/*-*/result.json")]
    assert_same(run, alone["objective=clm"])


@pytest.mark.soak
def test_torchrun_restarts_a_lost_process_and_the_run_resumes(corpus, alone, tmp_path):
    words = f"{corpus} objective=clm hardware=ddp trainer.max_steps=40 trainer.checkpoint_every=3"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun += ["--max-restarts=1", "-m", "lmft", *shlex.split(words)]
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(torchrun, cwd=tmp_path, stdout=log, stderr=log)
    wait_for(lambda: steps_of(tmp_path) >= 4, 300)
    psutil.Process(started.pid).children()[-1].kill()
    assert started.wait(300) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("Resuming from step") == 1
    (run,) = tmp_path.glob("runs/*-*")
    expected = dict(read_values(alone["objective=clm"], "train/loss"))
    assert dict(read_values(run, "train/loss")) == pytest.approx(expected, rel=1e-5)


@pytest.mark.soak
def test_processes_that_lmft_starts_listen_on_this_machine_alone(corpus, tmp_path):
    words = f"{corpus} objective=clm trainer.max_steps=100000 hardware=ddp hardware.processes=2"
    process = start(words, tmp_path, tmp_path / "log")
    listening = set()
    try:
        while steps_of(tmp_path) < 50:
            assert process.is_alive(), (tmp_path / "log").read_text()
            listening |= listening_of(process.pid)
            time.sleep(0.02)
    finally:
        kill(process)
    assert len(listening) > 2  # where they meet, and where each listens to the other
    assert {ipaddress.ip_address(address).is_loopback for address, _ in listening} == {True}


def listening_of(pid):
    """Addresses and ports on which a process or its children listen."""
    found = set()
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        for process in [whole := psutil.Process(pid), *whole.children(recursive=True)]:
            for open_here in process.net_connections("inet"):
                if open_here.status == psutil.CONN_LISTEN:
                    found.add(tuple(open_here.laddr))
    return found


@pytest.mark.parametrize(("rank", "said"), [("0", "lmft: careful\n"), ("1", "")])
def test_rank_0_alone_warns(rank, said):
    warn = "import logging; from lmft.commands.console import prepare; prepare(); "
    warn += "logging.getLogger('lmft').warning('careful')"
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": rank}
    line = [sys.executable, "-c", warn]
    ended = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert ended.stderr == said
