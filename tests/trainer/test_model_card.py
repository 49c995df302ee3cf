"""The model card: the numbers, how to reproduce them, and text that breaks no markup."""

import json
import re
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mlflow.artifacts import load_text

from lmft.output.markdown import fence, table
from lmft.output.plots import MOST_POINTS, thin
from lmft.output.sanitize import redact
from lmft.runs.provenance import describe_changes, has_changes, repeat_command
from lmft.runs.run import Run
from lmft.storage.hub import content_digest
from lmft.trainer.model_card import card_metadata
from tests.helpers.runs import compose

TINY = ["dataset.block_size=16", "trainer.epochs=2", "model.dropout=0"]
KINDS = {"clm": ("gpt2_tiny", "text-generation"), "mlm": ("bert_tiny", "fill-mask")}


def front_matter(readme):
    _, facts, body = readme.split("---\n", 2)
    return yaml.safe_load(facts), body.lstrip()


@pytest.mark.parametrize("objective", KINDS)
def test_a_card_repeats_the_run_and_has_its_numbers(objective, fit, corpus, store):
    model, task = KINDS[objective]
    choices = [f"objective={objective}", f"model={model}", "dataset.name='a | `b`'", *TINY]
    tracked = store.overrides if objective == "clm" else []
    folder = fit(*corpus, *choices, *tracked)
    card, result = (
        (folder / "card.md").read_text(),
        json.loads((folder / "result.json").read_text()),
    )

    words = shlex.split(re.search(r"```sh\n(.*)\n```", card)[1])
    assert words[0] == "lmft"
    run = Run(compose(*words[1:], f"run_root={folder.parent}"))
    assert run.folder == folder

    for split in ("validation", "test"):
        assert result[split]["label"] in card and result[split]["fingerprint"] in card
    for found in (result["baseline"], result["final"]):
        assert f"{found['perplexity']:,.2f}" in card
    for split in run.splits.values():
        assert split.digest() in card
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.S)[1])
    assert shown["model"] == run.values["model"] and shown["optimizer"] == run.values["optimizer"]

    facts, body = front_matter((folder / "checkpoint" / "README.md").read_text())
    assert body == card
    assert facts["pipeline_tag"] == task and not {"license", "base_model"} & facts.keys()
    for parent in (folder, folder / "checkpoint"):
        assert ElementTree.parse(parent / "curve.svg").getroot().tag.endswith("svg")
    if tracked:
        kept = store.run_of(folder).info.artifact_uri
        assert load_text(f"{kept}/card.md") == card
        assert load_text(f"{kept}/curve.svg") == (folder / "curve.svg").read_text()

    before = content_digest(str(folder / "checkpoint"), "main")
    (folder / "checkpoint" / "README.md").write_text("another day")
    assert content_digest(str(folder / "checkpoint"), "main") == before


@given(st.text("`~\n <>#a"))
def test_no_text_breaks_out_of_its_block(text):
    (block,) = MarkdownIt().parse(fence(text))
    assert block.type == "fence" and block.content == f"{text.rstrip()}\n"


@given(st.text("|\\`<*_[\n a", min_size=1).filter(str.strip))
def test_no_text_breaks_out_of_its_cell(text):
    parsed = MarkdownIt().enable("table").parse(table(("a", "b"), [(text, "c")]))
    cells = [token.children for token in parsed if token.type == "inline"]
    shown = "".join(part.content for part in cells[2])
    assert len(cells) == 4
    lines = [" ".join(line.split()) for line in text.strip().split("\n")]
    assert shown == "<br>".join(lines)


def test_changes_of_the_repository_are_described_and_none_is_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_changes() == ""

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "kept.txt").write_text("old\n")
    git("add", ".")
    git("commit", "-m", "first")
    for ours in (".mlflow.db.lock", "mlflow.db", "runs/a/.hydra/config.yaml"):
        (tmp_path / ours).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ours).write_text("seed: 0\n")
    assert not has_changes()
    (tmp_path / "new.py").touch()
    assert has_changes()
    (tmp_path / "new.py").unlink()
    (tmp_path / "kept.txt").write_bytes(b"new \xff\n")
    (tmp_path / "more.yaml").write_text("a: 1\n")
    changes = describe_changes()
    assert has_changes()
    assert "new file: more.yaml" in changes and "-old\n+new \ufffd" in changes
    (tmp_path / "kept.txt").write_text("long\n" * 10_000)
    assert len(describe_changes()) < 20_100


def test_the_command_of_a_job_is_that_job_alone():
    sources = [{"provider": "main", "path": "x"}, {"provider": "command-line", "path": "/my conf"}]
    composed = {
        "overrides.yaml": yaml.safe_dump(["seed=1", 'dataset.separator="a b"']),
        "hydra.yaml": yaml.safe_dump({"runtime": {"config_sources": sources}}),
    }
    words = ["lmft", "--config-dir", "/my conf", "seed=1", 'dataset.separator="a b"']
    assert shlex.split(repeat_command(composed)) == words


def test_passwords_stay_out():
    assert redact("tracker.uri=https://me:secret@host/x") == ("tracker.uri=https://HIDDEN@host/x")


def test_a_long_curve_keeps_its_mean():
    losses = np.array([(step, step % 7) for step in range(1, 10_001)], dtype=float)
    steps, values = thin(losses)
    assert MOST_POINTS / 2 < len(steps) == len(values) <= MOST_POINTS
    assert values.mean() == pytest.approx(losses[:, 1].mean(), rel=1e-3)  # the last group is short
    assert steps[0] >= 1 and steps[-1] == 10_000


def test_the_hub_learns_what_a_model_and_its_text_come_from():
    config = Run(compose("experiment=distilgpt2_wikitext2")).config
    facts = card_metadata(config)
    assert facts["base_model"] == config.model.name
    assert facts["datasets"] == ["Salesforce/wikitext"]
