"""Runs, resuming and sweeps on a real PostgreSQL, which lasts for this module."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from lmft.errors import StoreUnavailable, UserError
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.run_log import read_points
from tests.helpers.mlflow import Store
from tests.helpers.processes import kill, start, wait_for
from tests.helpers.runs import train_command

DRIVERS = {"psycopg2": "postgresql+psycopg2", "psycopg": "postgresql+psycopg"}
PASSWORD = "secret"


@pytest.fixture(scope="module")
def database():
    """The address of an empty database on 127.0.0.1."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    program = shutil.which("initdb") or (programs and str(programs))
    driver = next((driver for driver in DRIVERS if find_spec(driver)), None)
    if program is None or driver is None:
        pytest.skip("PostgreSQL is tried only where its server and psycopg2 or psycopg are")
    # PostgreSQL refuses to run as root; apt creates this user.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="lmft-postgresql-"))
    (folder / "password").write_text(PASSWORD)
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(name: str, *words: str) -> None:
        line = [Path(program).with_name(name), "-D", folder / "data", *words]
        with (folder.with_suffix(".log")).open("a") as log:
            subprocess.run(line, check=True, user=user, cwd="/", stdout=log, stderr=log)

    call("initdb", "-U", "me", f"--pwfile={folder / 'password'}", "-A", "scram-sha-256")
    call("pg_ctl", "-w", "-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}", "start")
    yield f"{DRIVERS[driver]}://me:{PASSWORD}@127.0.0.1:{port}/postgres"
    with suppress(subprocess.CalledProcessError):
        call("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)
    folder.with_suffix(".log").unlink()


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("postgresql+psycopg2://me@127.0.0.1/x", "psycopg2-binary"),
        ("postgresql+psycopg://me@127.0.0.1/x", "psycopg[binary]"),
        ("mysql+pymysql://me@127.0.0.1/x", "pymysql"),
        ("mssql+pyodbc://me@127.0.0.1/x", "pyodbc"),
    ],
)
def test_a_driver_that_is_missing_is_named_by_its_package(uri, package):
    if find_spec(uri.partition("+")[2].partition(":")[0]):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=rf"needs the package {package}".replace("[", r"\[")):
        MlflowTracker(uri, None).check()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        (PASSWORD, "guess", "password authentication failed"),
        ("/postgres", "/none", 'database "none" does not exist'),
        ("127.0.0.1", "nowhere.invalid", "not known"),
    ],
)
def test_a_database_that_refuses_is_named_in_one_sentence(database, right, wrong, words):
    with pytest.raises(StoreUnavailable, match=words) as refusal:
        MlflowTracker(database.replace(right, wrong), None).check()
    assert "\n" not in str(refusal.value)


@pytest.mark.soak
def test_a_run_a_kill_a_sweep_and_their_answers_work_on_postgresql(
    database, corpus, command, tmp_path
):
    line = train_command(corpus, "clm", f"tracker.uri={database}")
    many = "trainer.epochs=100 trainer.max_steps=300 trainer.checkpoint_every=20"
    process = start(f"{line} {many}", tmp_path, tmp_path / "log.txt")
    (folder,) = wait_for(lambda: list(tmp_path.glob("runs/*-*")))
    wait_for(lambda: any(points.step > 50 for points in read_points(folder)))
    kill(process)
    code, printed, complaint = command(f"{line} {many}")
    assert code == 0 and "Resum" in printed, complaint
    store = Store(tmp_path)
    store.uri = database
    store.check_points(folder)
    run = store.run_of(folder)
    assert run.info.status == "FINISHED"
    assert store.points(folder, "train/loss").keys() == set(range(1, 301))
    code, printed, _ = command(f"{line} {many}")
    assert code == 0 and "has finished already" in printed
    code, printed, complaint = command(f"-m {line} optimizer.lr=1e-3,1e-2")
    assert code == 0, complaint
    code, printed, _ = command("runs")
    assert code == 0 and "lr=0.001" in printed
    (parent,) = (run for run in store.runs() if "lmft.sweep" in run.data.tags)
    found = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    assert [job.info.status for job in store.runs(filter_string=found)] == ["FINISHED"] * 2
    code, printed, complaint = command(f"compare tracker.uri={database} {parent.info.run_id}")
    assert code == 0, complaint
    assert "3 there already" in command(f"sync tracker.uri={database}")[1]
