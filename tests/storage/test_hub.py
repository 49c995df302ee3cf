"""What is true of models and datasets from the hub, as a user's own process fetches them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hub import client_environment, serve_hub, wikitext_repository

TRAIN = [
    "dataset=wikitext2", "dataset.block_size=64", "model=pretrained", "trainer.max_steps=2",
    "tracker=none", "hardware=cpu", "evaluation.max_blocks=20",
]  # fmt: skip


def start(root: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    """The command, with its runs and its cache under `root`."""
    places = [f"run_root={root / 'runs'}", f"cache_root={root / 'cache'}"]
    return subprocess.Popen(
        [sys.executable, "-m", "lmft", *TRAIN, *places, *overrides],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said on stderr."""
    try:
        return process.wait(timeout=120), process.communicate()[1]
    finally:
        process.kill()
        process.communicate()


def result(root: Path) -> dict[str, object]:
    (found,) = (root / "runs").glob("*/result.json")
    return json.loads(found.read_text()) | {"timing": None}


@pytest.fixture
def hub(tmp_path, stories, wikitext):
    """Its environment, and what it was asked."""
    repository = wikitext_repository(tmp_path / "wikitext", wikitext / "parquet", rows=200)
    asked = []
    names = {"models/someone/stories260k": stories, "datasets/Salesforce/wikitext": repository}
    with serve_hub(names, asked) as endpoint:
        yield client_environment(endpoint, tmp_path / "hub"), asked


def test_a_run_from_the_hub_goes_again_offline_with_the_same_numbers(hub, tmp_path):
    environment, asked = hub
    model = "model.name=someone/stories260k"
    online = start(tmp_path / "online", environment, model)
    unknown = start(tmp_path / "unknown", environment, "model.name=someone/unknown")
    code, said = finish(online)
    assert code == 0, said
    found = result(tmp_path / "online")
    assert found["steps"] == 2 and found["test"]
    files = {request.path.rpartition("/")[2] for request in asked if request.status < 400}
    assert {"model.safetensors", "tokenizer.json", "train-00000-of-00001.parquet"} <= files

    code, said = finish(unknown)
    assert code == 2
    assert said.startswith("lmft: ") and said.count("\n") == 1 and "someone/unknown" in said
    assert not list((tmp_path / "unknown" / "runs").glob("[!.]*"))

    asked.clear()
    code, said = finish(start(tmp_path / "offline", environment | {"HF_HUB_OFFLINE": "1"}, model))
    assert code == 0, said
    assert result(tmp_path / "offline") == found
    assert not asked
