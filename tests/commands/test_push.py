"""`lmft push`: a run goes to the loopback hub, without a path of this machine or its texts."""

import json
import os

import pytest
import torch
import yaml
from huggingface_hub import HfApi, constants, get_token
from transformers import AutoModelForCausalLM, AutoTokenizer

import lmft
from tests.helpers.hub import serve_hub
from tests.helpers.runs import read_result

WRITE, READ = "hf_write0123456789abcdef", "hf_read0123456789abcdef"
QUICK = ["trainer.max_steps=2", "hardware.micro_batch_size=32", "model.config={n_layer:1}"]

pytestmark = pytest.mark.filterwarnings(  # of huggingface_hub 2.4 as it sends a file
    "ignore:Use 'content=:DeprecationWarning"
)


@pytest.fixture(scope="module")
def run(runs_of_module):
    fit, corpus = runs_of_module
    folder = fit(*corpus, *QUICK)
    config = folder / ".hydra" / "config.yaml"  # as if the run had a tracking server
    tree = yaml.safe_load(config.read_text())
    tree["tracker"] = {"_target_": "lmft.tracker.MlflowTracker", "uri": "http://10.1.2.3:5000"}
    config.write_text(yaml.safe_dump(tree))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub, which this process takes for the only one; the requests that it gets."""
    asked = []
    with serve_hub({}, asked, tmp_path / "hub") as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)  # of lmft.login()
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
        monkeypatch.setenv("HF_TOKEN", WRITE)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield asked


def commits(asked):
    return [request.path for request in asked if "/commit/" in request.path]


def test_a_run_is_sent_once_and_then_only_what_changed(run, hub, command, tmp_path):
    line = f"push {run} repo=me/tiny license=mit language=en"
    code, printed, complaint = command(f"{line} dry_run=true")
    assert (code, complaint) == (0, "") and "a new public repository" in printed
    assert "nothing was sent" in printed and not (tmp_path / "hub").exists()
    code, printed, complaint = command(line)
    assert (code, complaint) == (0, "") and printed.count("\nnew ") == 8, printed
    assert len(commits(hub)) == 1
    code, printed, _ = command(line)
    assert code == 0 and printed.count("\nsame ") == 8 and "nothing to send" in printed
    hub.clear()
    code, printed, _ = command(f"{line} samples=true")
    assert code == 0 and "\nchanged README.md" in printed and "1 file to send" in printed
    assert len(commits(hub)) == 1 and not [r for r in hub if r.method == "PUT"]


def test_a_dry_run_without_a_login_shows_what_would_be_sent(run, hub, command, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, printed, complaint = command(f"push {run} repo=me/tiny dry_run=true")
    assert (code, complaint) == (0, "") and printed.count("\nnew ") == 8 and not hub
    assert "nothing was sent. You are not logged in" in printed
    assert command(f"push {run} repo=me/tiny")[0] == 2


def test_what_the_hub_then_has_is_the_model_of_the_run(run, hub, command, tmp_path):
    assert command(f"push {run} repo=me/tiny private=true")[0] == 0
    assert HfApi().model_info("me/tiny").private
    cache = tmp_path / "cache"
    tokenizer = AutoTokenizer.from_pretrained("me/tiny", cache_dir=cache)
    ids = tokenizer("and saw one", return_tensors="pt").input_ids
    theirs = AutoModelForCausalLM.from_pretrained("me/tiny", cache_dir=cache)
    ours = AutoModelForCausalLM.from_pretrained(run / "checkpoint")
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=0, rtol=0)


def test_the_card_has_the_metadata_of_the_hub_and_the_labeled_perplexity(
    run, hub, command, tmp_path
):
    command(f"push {run} repo=me/tiny license=mit language=en")
    _, header, body = (tmp_path / "hub/models/me/tiny/README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(header)
    expected = {"license": "mit", "language": "en", "pipeline_tag": "text-generation"}
    assert metadata | expected == metadata and "base_model" not in metadata
    (entry,) = metadata["model-index"]
    result, test = entry["results"]
    assert test["dataset"]["split"] == "test"
    found = read_result(run)["validation"]
    perplexity = result["metrics"][0]
    assert (perplexity["type"], perplexity["value"]) == ("perplexity", found["perplexity"])
    assert perplexity["name"] == found["label"] and found["label"] in body
    assert result["dataset"]["split"] == "validation"


def test_neither_paths_nor_texts_nor_tokens_leave_the_machine(run, hub, command, tmp_path, fit):
    printed = "".join(command(f"push {run} repo=me/tiny")[1:])
    sent = {path.name: path for path in (tmp_path / "hub/models/me/tiny").iterdir()}
    assert set(sent) == {
        "README.md", "config.json", "curve.svg", "generation_config.json", "lmft.yaml",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    texts = {name: sent[name].read_text() for name in sent if name != "model.safetensors"}
    whole = "".join(texts.values())
    for secret in (str(run.parents[1]), os.getcwd(), os.path.expanduser("~") + "/", WRITE, "10.1."):
        assert secret not in whole
    assert WRITE not in printed and "## Samples" not in whole and "before →" not in whole
    assert "dataset.train=train" in texts["README.md"]
    config = yaml.safe_load(texts["lmft.yaml"])
    assert config["run_root"] == "runs" and "/" not in config["dataset"]["train"]


@pytest.mark.parametrize(
    ("token", "words", "sentence"),
    [
        ("hf_unknown0123456789", "", "does not accept this token; log in with another one"),
        (READ, "", "no right to write to me/tiny; use one that has"),
        (WRITE, "license=own", '"license" must be one of mit, apache-2.0'),
        ("", "", "needs a login: `hf auth login`, lmft.login() or HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    token, words, sentence, run, hub, command, monkeypatch, tmp_path
):
    monkeypatch.setenv("HF_TOKEN", token)
    code, _, complaint = command(f"push {run} repo=me/tiny {words}")
    assert code == 2 and sentence in complaint and complaint.count("\n") == 1
    assert not token or token not in complaint
    assert not list((tmp_path / "hub").rglob("*.json"))


def test_without_a_network_the_sentence_says_so(run, hub, command, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, complaint = command(f"push {run} repo=me/tiny")
    assert code == 2 and "The hub can't be reached; check the network" in complaint
    assert complaint.count("\n") == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, complaint = command(f"push {run} repo=me/tiny")
    assert code == 2 and "unset HF_HUB_OFFLINE" in complaint


def test_python_logs_in_and_pushes(run, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(lmft.UserError, match="does not accept this token"):
        lmft.login("hf_wrong0123456789")
    lmft.login(WRITE)
    assert get_token() == WRITE
    assert lmft.load(run).push("me/tiny").endswith("/me/tiny")
    assert json.loads((tmp_path / "hub/models/me/tiny/config.json").read_text())


def test_weights_of_an_earlier_kind_are_removed(run, hub, command, tmp_path):
    there = tmp_path / "hub/models/me/tiny"
    command(f"push {run} repo=me/tiny")
    (there / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (there / "notes.bin").write_bytes(b"mine")
    code, printed, _ = command(f"push {run} repo=me/tiny")
    assert code == 0 and "\nremoved model-00001-of-00002.safetensors" in printed
    assert (there / "notes.bin").exists() and not list(there.glob("model-*"))
