"""Passwords and tokens reach the store and the hub, but no file and no terminal."""

import json
import shlex
import sys
import urllib.parse

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmft.output import sanitize
from lmft.output.sanitize import HIDDEN, redact, redact_all, redact_yaml, remove_hidden_userinfo
from lmft.runs.provenance import repeat_command
from tests.helpers.server import Server

SECRET = "s3cr3t-Pa55"
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=6, max_size=30)


@settings(max_examples=40)
@given(TEXT, TEXT, st.sampled_from(["https", "postgresql", "mysql+pymysql", "mssql+pyodbc"]))
def test_no_password_of_an_address_survives_in_any_form(user, password, scheme):
    user, password = ("".join(["q9", some, "z8"]) for some in (user, password))
    quoted = urllib.parse.quote(password, safe="!$'()*,;=~")
    address = f"{scheme}://{urllib.parse.quote(user, safe='')}:{quoted}@host:5000/db"
    tree = {"tracker": {"uri": address, "lr": 1}, "words": [f"tracker.uri={address}"]}
    for text in (
        address,
        yaml.safe_dump(tree),
        json.dumps(tree),
        f"can't open {address!r}: no route",
    ):
        assert quoted not in redact(text)
    assert quoted not in str(redact_all(tree))
    words = {"overrides.yaml": yaml.safe_dump(tree["words"])}
    assert quoted not in shlex.split(repeat_command(words))[1]
    kept = OmegaConf.create(redact_yaml(yaml.safe_dump(tree)))
    assert (
        remove_hidden_userinfo(kept.tracker.uri) == f"{scheme}://host:5000/db"
        and kept.tracker.lr == 1
    )


@given(st.text(st.sampled_from("abcXYZ019_-./ ':\n"), max_size=60))
def test_a_text_without_secrets_stays_as_it_is(text):
    text = text.replace(":", ": ")
    assert redact(text) == text and redact_all({"knob": text}) == {"knob": text}


@pytest.mark.parametrize(
    "text",
    [
        "eos_token: </s>",
        "pad_token_id: 0",
        "tokens=50",
        "sqlite:////runs/mlflow.db",
        "https://host:5000/a@b",
        "model.name=owner/name@main",
        "validation 1,024 tokens in 3 documents",
    ],
)
def test_what_only_looks_like_a_secret_is_shown(text):
    assert redact(text) == text


@pytest.mark.parametrize("variable", ["HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_KEY"])
def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(variable, monkeypatch):
    value = "plainwords7"
    assert redact(f"it is {value}!") == f"it is {value}!"
    monkeypatch.setenv(variable, value)
    assert redact(f"it is {value}!") == f"it is {HIDDEN}!"


def test_a_password_of_the_command_line_is_hidden_where_it_stands_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lmft", f"tracker.uri=postgresql://me:{SECRET}@host/x"])
    assert redact(f"authentication with {SECRET} failed") == f"authentication with {HIDDEN} failed"


def test_a_password_of_a_call_from_python_is_hidden_as_that_of_a_command(monkeypatch):
    monkeypatch.setattr(sanitize, "_commands", set())
    assert "hunter22" in redact("hunter22 was refused")
    sanitize.remember_secrets(["seed=1", "tracker.uri=http://me:hunter22@host"])
    assert redact("hunter22 was refused") == f"{HIDDEN} was refused"


@pytest.mark.filterwarnings("ignore")
def test_a_run_reaches_a_store_with_a_password_that_is_found_nowhere(
    command, tmp_path, monkeypatch, store_at_hand
):
    token = "hf_" + "T0k3nT0k3n" * 3
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    quick = "trainer.max_steps=2 evaluation.max_blocks=1 model.vocab_size=300"
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with Server(store, monkeypatch, password=f"me:{SECRET}") as server:
        uri = f"tracker.uri=http://me:{SECRET}@127.0.0.1:{server.port}"
        line = f"{quick} cache_root=cache dataset.name={token} {uri}"
        told = [command(f"{line} -c job"), command(line), command(line)]
        assert [code for code, _, _ in told] == [0, 0, 0] and server.refused == []
        (run,) = tmp_path.glob("runs/*-*")
        again = f"evaluate run={run} evaluation.split=train cache_root=cache"
        assert command(f"{again} evaluation.max_blocks=1")[0] == 2  # without it, no store
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        told.append(command(f"{again} evaluation.max_blocks=1"))
        assert told[-1][0] == 0
        told.append(command(line.replace("127.0.0.1", "nowhere.invalid") + " seed=9 debug=true"))
        assert told[-1][0] != 0
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "card.md", "run.log", "config.yaml", "overrides.yaml", "mlflow.db"} <= {
        path.name for path in kept
    }
    for secret in (SECRET, token):
        assert [path.name for path in kept if secret.encode() in path.read_bytes()] == []
        lines = [line for one in told for line in (one[1] + one[2]).splitlines()]
        assert not [line for line in lines if secret in line]
