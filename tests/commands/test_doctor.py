"""`lmft doctor`: what is there, what would be slow or missing, and the way out of it."""

import errno
import fcntl
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from lmft.analysis.doctor import machine


@pytest.fixture
def sentences(command, monkeypatch):
    """Run the verb; returns its exit code, and what it prints on one line."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")  # which the verb would set for good

    def run(line=""):
        code, printed, complaint = command(f"doctor cache_root=cache {line}")
        return code, " ".join(f"{printed} {complaint}".split())

    return run


def test_it_says_what_is_there_and_leaves_nothing_behind(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, complaint = command("doctor")
    assert (code, complaint) == (0, "")
    assert all(len(line) <= 80 for line in printed.splitlines())
    for text in (f"torch {torch.__version__}", f"{tmp_path}/runs", "made by the first run"):
        assert text in "".join(printed.split("\n" + " " * 14)) or text in printed
    for name in ("lmft", "packages", "memory", "precision", "compiler", "hub", "environment"):
        assert f"\n{name} " in f"\n{printed}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("hardware=cuda", "missing hardware.device is 'cuda', but torch finds"),
        ("model=gpt2", "missing The model 'openai-community/gpt2' is not in the hub's local cache"),
        ("dataset=wikitext2", "missing The dataset 'Salesforce/wikitext' is not in the hub's"),
        ("dataset=text_files dataset.train=gone.txt", "'gone.txt' is not there"),
        ("dataset=text_files", "missing dataset.train has no value"),
        ("tracker.uri=http://127.0.0.1:9", "missing tracker.uri is 'http://127.0.0.1:9', which"),
        ("run_root=/dev/null/runs", "missing run_root leads to /dev/null, which is a file"),
        ("run_root=/proc/x", "missing run_root leads to /proc/x, which can't be written to"),
        ("hardware.compile=true", "missing hardware.compile=true needs a C++ compiler"),
    ],
)
def test_what_a_run_needs_is_missing(line, sentence, sentences, monkeypatch, tmp_path):
    if "cuda" in line and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, printed = sentences(line)
    assert code == 1 and sentence in printed
    assert "This run lacks 1 thing; do what the lines say that begin with missing." in printed


def test_what_makes_runs_slow_is_said_with_the_way_out(sentences, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    code, printed = sentences("hardware=cpu")
    assert code == 0
    assert "slow OMP_NUM_THREADS is 1, so that a run on the CPU uses" in printed
    assert "is on a file system without locks; start no run there on two machines" in printed
    if not torch.cuda.is_available():
        assert "slow NVIDIA's driver is here, but torch" in printed
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert "slow torch uses 8 threads, but this process may use 1 core" in sentences()[1]


def test_secrets_are_hidden(sentences, monkeypatch):
    secrets = {"HF_TOKEN": "hf_" + "a" * 30, "MLFLOW_TRACKING_PASSWORD": "open sesame"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    _, printed = sentences("tracker.uri=http://me:wordpass@127.0.0.1:9")
    assert "HF_TOKEN=HIDDEN" in printed and "logged in" in printed
    assert not any(value in printed for value in (*secrets.values(), "wordpass"))


class Hub(BaseHTTPRequestHandler):
    """Knows one token, and who it is of."""

    def do_GET(self):  # noqa: N802
        token = self.headers.get("authorization")
        self.send_response(200 if token in (None, "Bearer hf_right") else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"name": "somebody"}).encode())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, "answers, not logged in"),
        ("hf_right", "answers, logged in as somebody"),
        ("hf_wrong", "does not accept the token of this login; `hf auth login` replaces it."),
    ],
)
def test_a_hub_that_answers_is_asked_who_is_logged_in(token, sentence, sentences, monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
    code, printed = sentences("model=gpt2 tracker=none")
    server.shutdown()
    server.server_close()
    assert code == 0 and sentence in printed
