"""What the tests share: real text and weights where they are at hand, tiny models made here."""

import logging
import multiprocessing
import os

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models lose more to threads than they gain

import shlex
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from lmft import cli
from lmft.config import CONF
from lmft.config.build import read_config
from lmft.config.compose import compose as lmft_compose
from lmft.output.terminal import Terminal
from lmft.tracker.mlflow_store import make_store, open_client
from lmft.trainer.run import run

# Other work on the machine is no failure; and what `make test` tries is always the same.
settings.register_profile("test", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None)

SHARED = Path(os.environ.get("LMFT_SHARED", Path(__file__).parents[2] / "shared")).absolute()
MODELS = Path(os.environ.get("LMFT_MODELS", "models")).absolute()


def pytest_configure(config):
    settings.load_profile("test" if config.option.markexpr == "not soak" else "soak")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and small models; tests that need it are skipped without."""
    if not SHARED.is_dir():
        pytest.skip("LMFT_SHARED names no folder with the real data")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return built_model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def minilm() -> Path:
    return built_model("minilm-l6-h384-uncased")


def built_model(name: str) -> Path:
    if not (MODELS / name).is_dir():
        pytest.skip(f"LMFT_MODELS names no folder with {name}")
    return MODELS / name


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A real causal model of 260,032 weights."""
    return shared / "models" / "stories260k"


@pytest.fixture(scope="session")
def wikitext(shared: Path) -> Path:
    """The word-level WikiText-2: train.txt, valid.txt, test.txt."""
    return shared / "data" / "wikitext-2"


@pytest.fixture(scope="session")
def real_text(wikitext: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for some real text to train and to validate on, of 150,000 characters each."""
    folder, overrides = tmp_path_factory.mktemp("real"), ["dataset=text_files"]
    for split, name in {"train": "test", "validation": "valid"}.items():
        path = folder / f"{split}.txt"
        path.write_text((wikitext / f"{name}.txt").read_text()[:150_000])
        overrides.append(f"dataset.{split}={path}")
    return overrides


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    return write_corpus(tmp_path)


def write_corpus(folder: Path) -> list[str]:
    """Overrides for a small corpus in files: three splits of 40, 8 and 6 documents."""
    lines = ["the cat sat on a mat\n", "and saw one red dog run by\n", "so the dog sat\n"]
    overrides = ["dataset=text_files", "dataset.document=line", "model.vocab_size=300"]
    for split, count in {"train": 40, "validation": 8, "test": 6}.items():
        path = folder / f"{split}.txt"
        path.write_text("".join(lines[i % 3] for i in range(count)))
        overrides.append(f"dataset.{split}={path}")
    return overrides


def compose(*overrides: str) -> DictConfig:
    """The config that the command would compose."""
    return lmft_compose(CONF, list(overrides))


class Fit:
    """Runs as the command starts them, in this process, under one temporary folder."""

    def __init__(self, root: Path):
        self.root = root

    def __call__(self, *overrides: str, **more) -> Path:
        """Train; returns the run's folder."""
        places = [f"run_root={self.root / 'runs'}", f"cache_root={self.root / 'cache'}"]
        # In fp32, whatever the machine has: bf16 is too coarse for laws to the last digits.
        overrides = ("hardware=cpu", "hardware.precision=fp32", *overrides)
        composed = compose("tracker=none", *places, *overrides)
        config, values = read_config(composed)
        files = {"config.yaml": OmegaConf.to_yaml(composed)}
        files["overrides.yaml"] = OmegaConf.to_yaml(OmegaConf.create(list(overrides)))
        return run(config, values, files, Terminal(), **more).path


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    return Fit(tmp_path)


@pytest.fixture(scope="module")
def runs_of_module(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, list[str]]:
    """Runs that the tests of a module share, and a corpus that stays: what is equal runs once."""
    folder = tmp_path_factory.mktemp("shared")
    return Fit(folder), write_corpus(folder)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole store without a run, to be copied: making one takes a second of migrations."""
    place = tmp_path_factory.mktemp("empty") / "mlflow.db"
    make_store(place)
    return place


@pytest.fixture
def store_at_hand(empty_store: Path, tmp_path: Path) -> Path:
    """The store that the command finds where it starts in `tmp_path`; returns an empty one."""
    shutil.copy(empty_store, tmp_path)
    return empty_store


class Store:
    """An MLflow store of its own, and what is in it."""

    def __init__(self, root: Path):
        self.uri = f"sqlite:///{root / 'mlflow.db'}"
        self.overrides = ["tracker=mlflow", f"tracker.uri={self.uri}"]

    @property
    def client(self):
        return open_client(self.uri)

    def runs_of(self, folder: Path):
        """All runs of this folder."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, f"tags.`lmft.folder` = '{folder}'"))

    def run_of(self, folder: Path):
        """The one run of this folder."""
        (found,) = self.runs_of(folder)
        return found

    def points(self, folder: Path, key: str) -> dict[int, float]:
        """The values of one metric by step."""
        run_id = self.run_of(folder).info.run_id
        history = self.client.get_metric_history(run_id, key)
        assert len(history) == len({point.step for point in history})
        return {point.step: point.value for point in history}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    return Store(Path(shutil.copy(empty_store, tmp_path_factory.mktemp("store"))).parent)


def start(line: str, folder: Path, log: Path | None = None, environment=None):
    """The command in a process of its own, forked from one that has the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preload"])
    process = context.Process(
        target=enter, args=(line, str(folder), log and str(log), environment or {})
    )
    process.start()
    return process


def kill(process):
    with suppress(ProcessLookupError):  # it has ended, or not yet begun
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def warm_up() -> None:
    """Let the process that others are forked from have its imports done."""
    start("--help", Path.cwd()).join()


def enter(line: str, folder: str, log: str | None, environment: dict[str, str]) -> None:
    os.setpgid(0, 0)  # so that it can be killed with all that it starts
    os.chdir(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", **environment}
    sys.argv = ["lmft", *shlex.split(line)]
    out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.exit(cli.main())


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """The command line in this process: its exit code, what it printed, what it complained of."""

    def run(line):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["lmft", *shlex.split(line)])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        listeners = logging.getLogger().handlers.copy()
        try:
            code = cli.main()
        finally:
            logging.getLogger().handlers[:] = listeners  # its own ends with this test's stderr
            for number, handler in handlers.items():
                signal.signal(number, handler)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
