"""Models and datasets from the hub, fetched by a process as a user's is."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hub import client_environment, serve_hub, wikitext_repository
from tests.helpers.runs import read_result

TRAIN = [
    "dataset=wikitext2", "dataset.block_size=64", "model=pretrained", "trainer.max_steps=2",
    "tracker=none", "hardware=cpu", "evaluation.max_blocks=4",
]  # fmt: skip


# A process reads the hub's address once, when it starts; so it runs all commands that share one.
COMMANDS = """
import gc, shlex, sys
gc.disable()  # the search for garbage would take a third of the time of the imports
from lmft import cli

for line in sys.argv[1:]:
    sys.argv = ["lmft", *shlex.split(line)]
    print(f"exit code {cli.main()}", file=sys.stderr)
"""


def run(environment: dict[str, str], *lines: str) -> list[tuple[int, str]]:
    """The exit code of each command and what it wrote to stderr, in one process."""
    words = [sys.executable, "-c", COMMANDS, *lines]
    process = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    parts = re.split(r"^exit code (\d+)\n", process.stderr, flags=re.M)
    return [(int(code), said) for said, code in zip(parts[::2], parts[1::2], strict=False)]


def train(root: Path, model: str) -> str:
    """The command, with its runs and its cache under `root`."""
    return shlex.join([*TRAIN, f"run_root={root / 'runs'}", f"cache_root={root / 'cache'}", model])


@pytest.fixture(scope="module")
def hub(tmp_path_factory, stories, wikitext):
    """The environment of the hub's clients, and the requests that it got."""
    folder = tmp_path_factory.mktemp("hub")
    repository = wikitext_repository(folder / "wikitext", wikitext / "parquet", rows=100)
    asked = []
    names = {"models/someone/stories260k": stories, "datasets/Salesforce/wikitext": repository}
    with serve_hub(names, asked) as endpoint:
        yield client_environment(endpoint, folder / "home"), asked


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory):
    """The root of a run with a model of the hub, and exit code and message for an unknown model."""
    environment, asked = hub
    root = tmp_path_factory.mktemp("online")
    (code, said), unknown = run(
        environment,
        train(root, "model.name=someone/stories260k"),
        train(root / "unknown", "model.name=someone/unknown"),
    )
    assert code == 0, said
    files = {request.path.rpartition("/")[2] for request in asked if request.status < 400}
    assert {"model.safetensors", "tokenizer.json", "train-00000-of-00001.parquet"} <= files
    asked.clear()
    return root, unknown


def test_a_model_that_the_hub_does_not_have_is_one_sentence(online):
    root, (code, complaint) = online
    assert code == 2 and "someone/unknown" in complaint
    assert complaint.startswith("lmft: ") and complaint.count("\n") == 1
    assert not list((root / "unknown" / "runs").glob("[!.]*"))


def test_a_run_from_the_hub_goes_again_offline_with_the_same_numbers(hub, online, tmp_path):
    environment, asked = hub
    expected = read_result(next((online[0] / "runs").glob("*-*")))
    assert expected["steps"] == 2 and expected["test"]
    again = train(tmp_path, "model.name=someone/stories260k")
    ((code, said),) = run(environment | {"HF_HUB_OFFLINE": "1"}, again)
    assert code == 0, said
    assert read_result(next((tmp_path / "runs").glob("*-*"))) == expected
    assert not asked
