"""The Python API: the command line's runs and sentences, and nothing is left behind."""

import gc
import io
import json
import logging
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import nbformat
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.preprocessors import ExecutePreprocessor
from omegaconf.basecontainer import BaseContainer
from transformers import GPT2LMHeadModel

import lmft
from lmft.commands.words import as_words
from lmft.output.sanitize import strip_control
from lmft.signals import HANDLED
from tests.helpers.processes import ROOT
from tests.helpers.runs import read_metrics, read_result, repeatable_metrics

TINY = [
    "model=gpt2_tiny", "model.config={n_layer:1,n_embd:32,n_head:2}", "dataset.block_size=16",
    "hardware=cpu", "hardware.precision=fp32", "trainer.max_steps=6", "trainer.evaluate_every=3",
    "tracker=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(runs_of_module):
    """A run of the API, beside those of the module."""
    fit, corpus = runs_of_module
    words = [*corpus, *TINY]
    return lmft.train(*words, run_root=fit.root / "runs", cache_root=fit.root / "cache")


def test_importing_it_is_quick_and_loads_no_torch():
    code = (
        "import sys, time; started = time.perf_counter(); import lmft; "
        "print(time.perf_counter() - started < 0.2, 'torch' in sys.modules, dir(lmft))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout == f"True False {sorted(lmft.__all__)}\n"
    with pytest.raises(AttributeError, match="trian"):
        _ = lmft.trian


def test_a_run_is_that_of_the_command_line_and_the_same_words_answer(
    run, runs_of_module, command, capsys
):
    fit, corpus = runs_of_module
    roots = [f"run_root={fit.root / 'runs'}", f"cache_root={fit.root / 'cache'}"]
    code, printed, _ = command(shlex.join([*corpus, *TINY, *roots]))
    assert code == 0 and "has finished already" in printed and str(run.folder) in printed
    started = time.perf_counter()
    again = lmft.train(*corpus, *TINY, *roots)
    assert time.perf_counter() - started < 5 and again.folder == run.folder
    assert "has finished already" in capsys.readouterr().out
    assert (
        lmft.load(run.folder).result
        == run.result
        == json.loads((run.folder / "result.json").read_text())
    )
    assert run.config.trainer.max_steps == 6 and run.values["seed"] == 0


def test_metrics_are_a_row_a_step_and_a_column_a_metric(run):
    frame, logged = run.metrics, read_metrics(run.folder)
    assert frame.index.name == "step" and list(frame.index) == list(range(7))
    assert {(step, name): frame.loc[step, name] for step, name in logged} == logged
    assert int(frame.notna().sum().sum()) == len(logged)


def test_weights_and_tokenizer_are_those_of_transformers(run):
    model, tokenizer = run.model(), run.tokenizer()
    assert isinstance(model, GPT2LMHeadModel) and len(tokenizer) == model.config.vocab_size
    assert tokenizer("the cat")["input_ids"]


def test_it_generates_and_evaluates_as_the_verbs_do(run, command):
    text = run.generate("the cat", tokens=5, seed=3)
    assert text.startswith("the cat")
    line = ["generate", f"run={run.folder}", "prompt=the cat", "tokens=5", "seed=3"]
    assert command(shlex.join(line))[1] == f"{strip_control(text)}\n"
    scored = run.evaluate("evaluation.stride=8", "evaluation.split=validation")
    assert scored["conditions"]["stride"] == 8
    kept = json.loads((run.folder / "evaluations.json").read_text()).values()
    assert any(found["loss"] == scored["loss"] for found in kept)


def test_it_answers_a_line_and_a_conversation(run, command, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\nsaw\n"))
    printed = command(f"chat {run.folder} tokens=5 seed=3")[1]
    first = run.chat("the cat", tokens=5, seed=3)
    talk = [("user", "the cat"), ("assistant", first), ("user", "saw")]
    messages = [{"role": role, "content": text} for role, text in talk]
    second = run.chat(messages, tokens=5, seed=3)
    assert printed == strip_control(f"{first}\n{second}\n") and len(messages) == 3


def test_what_a_model_will_read_is_shown(corpus, command, tmp_path, capsys, monkeypatch):
    words = [*corpus, *TINY[:-1], f"cache_root={tmp_path}"]
    shown = command(f"data {shlex.join(words)}")[1]
    lmft.data(*words, html=tmp_path / "data.html")
    page = f"\nLook    {tmp_path / 'data.html'}\n"
    assert capsys.readouterr().out == shown + page and (tmp_path / "data.html").exists()
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a notebook does: colors, but nothing is redrawn
    lmft.data(*words)
    colored = capsys.readouterr().out
    assert "\x1b[36m" in colored and set(re.findall(r"\x1b\[[^a-zA-Z]*([a-zA-Z])", colored)) == {
        "m"
    }


def test_it_is_drawn_and_shows_itself(run, tmp_path):
    run.plot().savefig(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    shown = run._repr_html_()
    assert run.folder.name in shown and "<svg" in shown and "<svg" in run.plot()._repr_svg_()
    assert f"{run.result['test']['perplexity']:,.2f}" in shown
    assert repr(run) == f"lmft.load({str(run.folder)!r})"


def test_runs_are_compared(run, runs_of_module):
    fit, corpus = runs_of_module
    roots = {"run_root": fit.root / "runs", "cache_root": fit.root / "cache"}
    other = lmft.train(*corpus, *TINY, "optimizer.lr=1e-2", **roots)
    found = lmft.compare(run, str(other.folder), split="test")
    assert list(found.table.index) == [other.folder.name, run.folder.name]  # best first
    assert found.table["loss"].tolist() == [r.result["test"]["loss"] for r in (other, run)]
    assert found.table["optimizer.lr"].tolist() == [0.01, 0.001]
    (pair,) = found.pairs.to_dict("records")
    assert pair["better"] == other.folder.name and pair["low"] < pair["difference"] < pair["high"]
    assert "2 runs compared on test" in found.text == repr(found) and "<html" in found.html
    with pytest.raises(lmft.UserError, match="two runs or more"):
        lmft.compare(run)


def test_a_sweep_has_its_runs_and_its_best(runs_of_module, tmp_path):
    fit, corpus = runs_of_module
    words = [*corpus, *TINY[1:], "optimizer.lr=1e-3,1e-2,1e30"]
    sweep = lmft.multirun(
        *words, model="gpt2_tiny", run_root=tmp_path / "runs", cache_root=fit.root / "cache"
    )
    assert sweep.table["state"].tolist() == ["finished", "finished", "failed"]
    assert sweep.table["lr"].tolist()[:2] == [0.001, 0.01]
    assert sweep.table["validation/loss"].isna().tolist() == [False, False, True]
    assert [run.values["optimizer"]["lr"] for run in sweep.runs] == [0.001, 0.01]
    losses = [run.result["validation"]["loss"] for run in sweep.runs]
    assert sweep.table["validation/loss"].tolist()[:2] == losses
    assert sweep.best.result["validation"]["loss"] == min(losses)
    assert (sweep.folder / "leaderboard.md").exists()
    assert set(lmft.compare(sweep).table.index) == {run.folder.name for run in sweep.runs}


WRONG = [
    "modle=gpt2_tiny",
    "model=gpt3_tiny",
    "optimizer.lr=abc",
    "trainer.epochs",
    "seed=1,2",
    "model.config={n_layr:3}",
    "dataset.train=nowhere.txt",
    "model.config={n_head:7}",
    "optimizer.lr=1e30 trainer.max_steps=60 trainer.epochs=99",  # not a mistake, but a sentence
]


@pytest.mark.parametrize("word", WRONG)
def test_a_mistake_is_an_exception_with_the_sentence_of_the_command_line(
    word, corpus, command, tmp_path
):
    words = [*corpus, *TINY, *word.split()]
    code, _, complaint = command(shlex.join([*words, "run_root=other", "cache_root=cache"]))
    kind = lmft.UserError if code == 2 else FloatingPointError
    with pytest.raises(kind) as raised:
        lmft.train(*words, run_root="other", cache_root="cache")
    sentence = complaint.splitlines()[-1]
    assert sentence == f"lmft: {raised.value}" and raised.value.__suppress_context__


REFUSED = {
    "a list for words": (lambda run: lmft.train(["seed=1"]), "pass a list as"),
    "a flag": (lambda run: lmft.multirun("--help"), "is a flag of the command line"),
    "no tokens": (lambda run: run.generate(tokens=0), "tokens must be a number from 1 to 1e"),
    "hot": (lambda run: run.generate(temperature=-1), "temperature must be a number from 0"),
    "another model": (lambda run: run.evaluate("model=gpt2"), "name two models"),
    "a split": (
        lambda run: lmft.compare(run, run, split="tests"),
        "choose test, validation, train",
    ),
    "no message": (lambda run: run.chat([]), "A conversation is a text, or a list"),
    "no adapter": (lambda run: run.merge(), "trained no adapter"),
    "no run": (lambda run: lmft.load("nowhere"), "is neither a run's folder nor an MLflow run"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_a_call_can_not_take_is_said(call, run):
    refused, sentence = REFUSED[call]
    with pytest.raises(lmft.UserError, match=sentence):
        refused(run)


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="$"), max_size=9)


@given(
    TEXTS.map("x".__add__) | st.sampled_from(["null", "1e3", "\\", "a\\'b", "it's", "a,b", "[1]"])
)
def test_a_keyword_argument_reaches_its_knob_as_it_is(text):
    (word,) = as_words({"dataset.name": text})
    assert OverridesParser.create().parse_override(word).value() == text


def test_keywords_keep_their_types():
    values = {"optimizer.lr": 3e-4, "model.config": {"n_layer": 1}, "fresh": True, "seed": None}
    assert as_words(values) == ["optimizer.lr=0.0003", "model.config={n_layer:1}", "fresh=true"]
    assert as_words({"model": "gpt2_tiny"}) == ["model=gpt2_tiny"]


def test_keywords_are_groups_and_a_few_knobs(corpus, tmp_path, capsys):
    keywords = {"seed": 3, "model": "gpt2_tiny", "run_root": tmp_path / "a folder"}
    run = lmft.train(*corpus, *TINY[1:], "trainer.max_steps=1", cache_root=tmp_path, **keywords)
    assert run.folder.parent == tmp_path / "a folder" and run.values["seed"] == 3
    fresh = lmft.train(
        *corpus, *TINY[1:], "trainer.max_steps=1", cache_root=tmp_path, fresh=True, **keywords
    )
    assert fresh.folder == run.folder and (run.folder.parent / f"{run.folder.name}~1").is_dir()
    assert read_result(fresh.folder) == read_result(run.folder)


def state_of_process():
    """What a call might leave behind."""
    root = logging.getLogger()
    # transformers leaves a pool that reads weights to end by itself.
    threads = {t.name for t in threading.enumerate() if "PoolExecutor" not in t.name}
    names = ("", "lmft", "mlflow", "hydra", "transformers")
    return {
        "signals": [signal.getsignal(number) for number in HANDLED],
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "logging": (root.handlers[:], [logging.getLogger(name).level for name in names]),
        "warnings": warnings.filters[:],
        "hydra": (GlobalHydra.instance().hydra, dict(BaseContainer._resolvers)),
        "threads": (threads, torch.get_num_threads(), os.getcwd()),
        "random": (random.getstate(), torch.get_rng_state().tolist()),
        "argv": sys.argv[:],
        "garbage": gc.isenabled(),
    }


def test_calls_leave_nothing_behind(run, runs_of_module, tmp_path):
    fit, corpus = runs_of_module
    roots = {"run_root": tmp_path / "runs", "cache_root": fit.root / "cache"}
    calls = {
        "train": lambda: lmft.train(*corpus, *TINY, **roots),
        "again": lambda: lmft.train(*corpus, *TINY, **roots),
        "multirun": lambda: lmft.multirun(*corpus, *TINY, "seed=0,1", **roots),
        "generate": lambda: run.generate("the cat"),
        "evaluate": lambda: run.evaluate("evaluation.stride=4"),
        "model": run.model,
        "plot": run._repr_html_,
        "load": lambda: lmft.load(run.folder),
        "mistake": lambda: pytest.raises(lmft.UserError, lmft.train, "modle=x"),
    }
    for name, call in calls.items():
        gc.disable() if name == "again" else gc.enable()
        before = state_of_process()
        call()
        assert state_of_process() == before, name


def test_the_caller_may_use_hydra_and_threads(runs_of_module, tmp_path):
    fit, corpus = runs_of_module
    with hydra.initialize(config_path=None, version_base=None):

        def train(seed):
            roots = {"run_root": tmp_path, "cache_root": fit.root / "cache"}
            return lmft.train(*corpus, *TINY, "trainer.max_steps=1", seed=seed, **roots)

        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(train, [0, 1]))
        assert [run.values["seed"] for run in runs] == [0, 1]
        train(0)
        assert hydra.compose(overrides=["+own=1"]).own == 1


def test_a_run_that_has_not_finished_has_its_metrics(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / run.folder.name))
    shutil.rmtree(folder / "checkpoint")
    (folder / "result.json").unlink()
    unfinished = lmft.load(folder)
    assert unfinished.result == {} and len(unfinished.metrics) == 7
    assert "not finished" in unfinished._repr_html_()
    with pytest.raises(lmft.UserError, match="has no checkpoint"):
        unfinished.model()


def test_the_stop_button_saves_a_checkpoint_and_the_same_words_resume(
    runs_of_module, tmp_path, monkeypatch
):
    fit, corpus = runs_of_module
    words = [*corpus, *TINY, "trainer.max_steps=150", "trainer.epochs=500"]
    words += ["trainer.evaluate_every=50"]
    straight = lmft.train(*words, run_root=tmp_path / "straight", cache_root=fit.root / "cache")
    root, stopped = tmp_path / "stopped", threading.Event()

    def press():
        while not any(p.stat().st_size > 6000 for p in root.glob("*/metrics.jsonl")):
            time.sleep(0.01)
        stopped.set()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        lmft.train(*words, run_root=root, cache_root=fit.root / "cache")
    thread.join()
    (folder,) = root.glob("*-*")
    assert stopped.is_set() and not (folder / "result.json").exists()
    assert list(folder.glob("checkpoints/step-*"))
    again = lmft.train(*words, run_root=root, cache_root=fit.root / "cache")
    assert read_result(again.folder) == read_result(straight.folder)
    assert repeatable_metrics(again.folder) == repeatable_metrics(straight.folder)


CELLS = [
    "import lmft",
    "run = lmft.train(*{words!r}, run_root='runs', cache_root='cache')",
    "run",
    "run.metrics['train/loss'].mean()",
    "lmft.multirun(*{words!r}, 'seed=0,1', run_root='runs', cache_root='cache').table",
    "lmft.train('modle=x')",
]


# Of the libraries that run notebooks.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_shows_progress_and_the_run_itself(runs_of_module, tmp_path):
    cells = [cell.format(words=[*runs_of_module[1], *TINY]) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[-1].metadata["tags"] = ["raises-exception"]
    executor = ExecutePreprocessor(timeout=120, kernel_name="python3")
    executor.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    outputs = [cell.outputs for cell in notebook.cells]
    bars = [o.data["text/html"] for o in outputs[1] if "text/html" in o.get("data", {})]
    assert any("training" in bar and "6 of 6" in bar for bar in bars)
    (shown,) = outputs[2]
    assert "<svg" in shown.data["text/html"] and "validation" in shown.data["text/html"]
    assert float(outputs[3][0].data["text/plain"].removeprefix("np.float64(").rstrip(")")) > 0
    assert outputs[4][-1].data["text/html"].count("finished") == 2
    (error,) = outputs[5]
    assert error.ename == "UserError" and "Did you mean 'model'?" in error.evalue
    assert not any("Error" in o.get("text", "") for cell in outputs for o in cell)


@pytest.mark.soak
def test_twenty_runs_in_one_process_do_not_grow(runs_of_module, tmp_path):
    import psutil

    fit, corpus = runs_of_module
    sizes = []
    for seed in range(20):
        lmft.train(*corpus, *TINY, seed=seed, run_root=tmp_path, cache_root=fit.root / "cache")
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[4] < 10e6, sizes
