"""Fixtures that test modules share: real text and weights where they are at hand, tiny runs."""

import gc
import logging
import os
import shlex
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

# Nothing of lmft is imported up here: the process that hands out tests to others needs none of it.
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models lose more to threads than they gain
# On a CPU, Triton's kernels run in its interpreter; `make test-cuda` sets 0.
os.environ.setdefault("TRITON_INTERPRET", "1")
gc.disable()  # until all is imported: the search for garbage would take a third of that time

# Other work on the machine is no failure; and what `make test` tries is always the same.
settings.register_profile("test", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None)

SHARED = Path(os.environ.get("LMFT_SHARED", Path(__file__).parents[2] / "shared")).absolute()
MODELS = Path(os.environ.get("LMFT_MODELS", "models")).absolute()


def pytest_configure(config):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and so would what tests start
    settings.load_profile("test" if config.option.markexpr == "not soak" else "soak")


def pytest_collection_finish(session):
    gc.freeze()  # what is imported stays
    gc.set_threshold(20_000)  # of 700 new objects, too many of which stay: 2% of the time
    gc.enable()


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
    """Overrides for some real text to train and to validate on, of 60,000 characters each."""
    folder, overrides = tmp_path_factory.mktemp("real"), ["dataset=text_files"]
    for split, name in {"train": "test", "validation": "valid"}.items():
        path = folder / f"{split}.txt"
        path.write_text((wikitext / f"{name}.txt").read_text()[:60_000])
        overrides.append(f"dataset.{split}={path}")
    return overrides


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Overrides for a small corpus in files of this test."""
    from tests.helpers.corpus import write_corpus

    return write_corpus(tmp_path)


@pytest.fixture
def fit(tmp_path: Path):
    """Runs of this test, in this process."""
    from tests.helpers.runs import Fit

    return Fit(tmp_path)


@pytest.fixture(scope="module")
def runs_of_module(tmp_path_factory: pytest.TempPathFactory):
    """Runs that the tests of a module share, and a corpus that stays: what is equal runs once."""
    from tests.helpers.corpus import write_corpus
    from tests.helpers.runs import Fit

    folder = tmp_path_factory.mktemp("shared")
    return Fit(folder), write_corpus(folder)


@pytest.fixture
def scored(stories: Path, wikitext: Path, tmp_path: Path) -> list[str]:
    """Overrides for real weights, and 3,000 characters of real text to score."""
    path = tmp_path / "test.txt"
    path.write_text((wikitext / "test.txt").read_text()[:3000])
    return [
        "model=pretrained", f"model.name={stories}", "dataset=text_files", f"dataset.test={path}",
        "dataset.separator=none", "dataset.block_size=64", f"cache_root={tmp_path}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def masked_run(runs_of_module) -> Path:
    """The folder of a masked model, trained for one step."""
    fit, corpus = runs_of_module
    return fit(*corpus, "model=bert_tiny", "objective=mlm", "trainer.max_steps=1")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run, to be copied: creating one takes a second of migrations."""
    from lmft.tracker.mlflow_store import create_store

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    create_store(path)
    return path


@pytest.fixture
def store_at_hand(empty_store: Path, tmp_path: Path) -> Path:
    """Put an empty store where commands that start in `tmp_path` find it; returns another one."""
    shutil.copy(empty_store, tmp_path)
    return empty_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path):
    """A store that tests share; each looks only at the runs of its own folders."""
    from tests.helpers.mlflow import Store

    return Store(Path(shutil.copy(empty_store, tmp_path_factory.mktemp("store"))).parent)


@pytest.fixture
def eager_sender(monkeypatch):
    """Upload so often that a test can wait for it."""
    from lmft.tracker import background

    monkeypatch.setattr(background, "UPLOAD_INTERVAL", 0.05)
    monkeypatch.setattr(background, "RETRY_INTERVAL", 0.05)
    yield
    background._unavailable.clear()


@pytest.fixture
def server(store, monkeypatch, eager_sender):
    """A server of the shared store, which a test can stop and start."""
    from tests.helpers.server import Server

    with Server(store.uri, monkeypatch) as server:
        yield server


@pytest.fixture
def record(tmp_path):
    """The record of a run that has just begun."""
    from lmft.tracker.run_log import Corpus, Facts, Record

    with closing(Record(tmp_path)) as record:
        facts = Facts(
            "run",
            "key",
            {"long": "x" * 10_000},
            [Corpus("cats", "train", "0123456789" * 6, "cats.txt")],
            "fp32",
        )
        record.start(facts, {"lmft.folder": str(tmp_path)})
        yield record


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a command line in this process, in a folder; returns exit code, stdout and stderr."""
    from lmft import cli
    from lmft.signals import HANDLED

    def run(line, folder=tmp_path):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["lmft", *shlex.split(line)])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        handlers = {number: signal.getsignal(number) for number in HANDLED}
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
