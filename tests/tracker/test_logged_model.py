"""The best weights of a run are a model that MLflow loads, serves and registers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import mlflow
import pytest
import transformers

import lmft
from lmft.errors import UserError
from lmft.tracker import mlflow_model
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.tracker.protocol import BestJob
from lmft.tracker.run_log import Record
from tests.helpers.processes import wait_for

# MLflow's server is built on it.
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")


def model_of(store, folder):
    """The one logged model of the run of `folder`."""
    run = store.run_of(folder).info
    query = f"source_run_id = '{run.run_id}'"
    (model,) = store.client.search_logged_models([run.experiment_id], query)
    return model


def files_of(model):
    """The folder of a logged model's files, in a store of this machine."""
    return Path(model.artifact_location.removeprefix("file://"))


@pytest.fixture(autouse=True)
def no_store_here(monkeypatch, tmp_path):
    """MLflow must not create the store that it would use by itself."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "mlflow.db").exists()


@pytest.fixture(scope="module")
def logged(runs_of_module, store):
    """The folder and the logged model of a causal run, which is registered."""
    fit, corpus = runs_of_module
    words = ("dataset.block_size=16", "trainer.max_steps=2", "tracker.register=cats")
    folder = fit(*corpus, *store.overrides, *words)
    return folder, model_of(store, folder)


@pytest.fixture
def in_store(store, monkeypatch):
    """MLflow's own functions look into the store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)


def test_a_logged_model_is_the_weights_of_the_run_and_is_stored_once(logged):
    folder, model = logged
    files = files_of(model)
    result = json.loads((folder / "result.json").read_text())
    assert model.name == folder.name and model.tags["test/label"] == result["test"]["label"]
    weights = folder / "checkpoint" / "model.safetensors"
    assert weights.stat().st_ino == (files / "model" / weights.name).stat().st_ino
    tokenizer = folder / "checkpoint" / "tokenizer.json"
    for place in ("model", "components/tokenizer"):
        assert (files / place / tokenizer.name).stat().st_ino == tokenizer.stat().st_ino
    assert files.stat().st_mode == files.parent.stat().st_mode  # others may read it
    kinds = {file.suffix for file in files.rglob("*") if file.is_file()}
    assert not kinds & {".pkl", ".bin", ".pt"} and not any(f.is_symlink() for f in files.rglob("*"))
    needed = (files / "requirements.txt").read_text()
    assert "torch==" in needed and "torchvision" not in needed and "+" not in needed


def test_mlflow_loads_the_weights_and_predicts(logged, in_store):
    folder, model = logged
    pipeline = mlflow.transformers.load_model(f"models:/{model.model_id}")
    expected = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint")
    for name, value in expected.state_dict().items():
        assert (pipeline.model.state_dict()[name] == value).all()
    loaded = mlflow.pyfunc.load_model("models:/cats@best")
    for words in ({"max_new_tokens": 4}, {"max_new_tokens": 4, "do_sample": True}):
        (answer,) = loaded.predict(["the cat"], params=words)
        assert answer.startswith("the cat")
    (likeliest,) = pipeline("the cat", max_new_tokens=4, do_sample=False)
    (answer,) = loaded.predict(["the cat"], params={"max_new_tokens": 4})
    assert answer == likeliest["generated_text"].strip()
    assert loaded.metadata.load_input_example(str(files_of(model))) is not None
    assert loaded.metadata.metadata["test/label"] == model.tags["test/label"]


def test_a_run_is_registered_once_and_the_first_version_is_the_best(logged, store):
    folder, model = logged
    tracker = MlflowTracker(store.uri, "lmft", register="cats")
    assert tracker.is_up_to_date(folder)
    other = MlflowTracker(store.uri, "lmft", register="dogs")
    assert not other.is_up_to_date(folder)
    for some in (tracker, other, other):
        with closing(Record(folder)) as record, some.update_run(record):
            pass
        assert some.is_up_to_date(folder)
        registered = store.client.get_registered_model(some.register)
        assert {key: str(value) for key, value in registered.aliases.items()} == {"best": "1"}
        (version,) = store.client.search_model_versions(f"name = '{some.register}'")
        assert version.run_id == model.source_run_id
        assert version.description.endswith(model.tags["test/label"])
    assert model_of(store, folder).model_id == model.model_id
    shown = json.loads(model_of(store, folder).tags["mlflow.modelVersions"])
    assert [entry["name"] for entry in shown] == ["cats", "dogs"]


def test_a_server_gets_the_files_late_and_once(logged, store, server, monkeypatch, tmp_path):
    """Files go by HTTP, to a store that does not know the run yet."""
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(tmp_path / "served"))
    folder, weights = logged[0], "model.safetensors"
    server.refuse = lambda method, path: (
        ("403 FORBIDDEN", b"Permission denied") if weights in path else None
    )
    away = MlflowTracker(server.uri, "served", register="served")
    copy = tmp_path / "copy" / folder.name
    copy_of_run(folder, copy)
    away.upload(copy, "FINISHED")
    assert store.run_of(copy).info.status == "FINISHED" and not away.is_up_to_date(copy)
    assert model_of(store, copy).status == "PENDING"
    sent = []
    server.refuse = lambda method, path: sent.append(path) if method == "PUT" else None
    for _ in range(2):
        away.upload(copy, "FINISHED")
        assert away.is_up_to_date(copy)
    assert sum(path.endswith(weights) for path in sent) == 1
    assert model_of(store, copy).artifact_location.startswith("mlflow-artifacts:/")
    (served,) = tmp_path.glob(f"served/**/{weights}")
    assert served.read_bytes() == (folder / "checkpoint" / weights).read_bytes()
    assert str(store.client.get_model_version_by_alias("served", "best").version) == "1"


def copy_of_run(folder, copy):
    """A run of its own with the same weights."""
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "run.json").read_text())
    facts["tags"] |= {"lmft.id": "another", "lmft.folder": str(copy)}
    (copy / "run.json").write_text(json.dumps(facts))


def test_a_run_without_a_logged_model_has_none(logged, store, tmp_path):
    copy = tmp_path / "copy"
    copy_of_run(logged[0], copy)
    models = files_of(logged[1]).parents[1]
    before = list(models.iterdir())
    tracker = MlflowTracker(store.uri, "none", log_model="none")
    tracker.upload(copy, "FINISHED")
    assert tracker.is_up_to_date(copy)
    run = store.run_of(copy).info
    assert store.client.search_logged_models([run.experiment_id]) == []
    assert list(models.iterdir()) == before
    assert not MlflowTracker(store.uri, "none").is_up_to_date(copy)


def test_a_model_of_an_earlier_version_gets_its_files(logged, store, tmp_path):
    copy = tmp_path / "copy"
    copy_of_run(logged[0], copy)
    MlflowTracker(store.uri, "earlier", log_model="none").upload(copy, "FINISHED")
    run = store.run_of(copy).info
    tags = {"mlflow.model.isExternal": "true", "lmft.checkpoint": str(copy / "checkpoint")}
    made = store.client.create_logged_model(run.experiment_id, "checkpoint", run.run_id, tags)
    store.client.finalize_logged_model(made.model_id, "READY")
    tracker = MlflowTracker(store.uri, "earlier")
    assert not tracker.is_up_to_date(copy)
    tracker.upload(copy, "FINISHED")
    assert tracker.is_up_to_date(copy) and model_of(store, copy).model_id == made.model_id
    assert (files_of(made) / "MLmodel").exists()


def test_weights_that_mlflow_can_not_hold_delay_no_end(logged, store, tmp_path, caplog):
    copy = tmp_path / "copy"
    copy_of_run(logged[0], copy)
    config = copy / "checkpoint" / "config.json"
    config.write_text(config.read_text().replace('"gpt2"', '"unheard-of"'))
    tracker = MlflowTracker(store.uri, "odd")
    tracker.upload(copy, "FINISHED")
    assert store.run_of(copy).info.status == "FINISHED" and not tracker.is_up_to_date(copy)
    assert caplog.text.count("but not its model (") == 1


def test_files_on_another_disk_are_copied(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new"), target.write_text("old")

    def refuse(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(mlflow_model.os, "link", refuse)
    mlflow_model.link_or_copy(str(source), str(target))
    assert target.read_text() == "new" and target.stat().st_ino != source.stat().st_ino


def test_a_masked_model_fills_its_mask(runs_of_module, store, in_store):
    fit, corpus = runs_of_module
    words = ("model=bert_tiny", "objective=mlm", "dataset.block_size=16", "trainer.max_steps=1")
    model = model_of(store, fit(*corpus, *store.overrides, *words))
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    (example,) = loaded.input_example
    (answer,) = loaded.predict([example])
    assert isinstance(answer, str) and "[MASK]" not in answer


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what peft calls in transformers
def test_an_adapter_is_loaded_with_its_base_and_predicts(
    runs_of_module, store, in_store, stories, real_text
):
    fit, _ = runs_of_module
    words = ["model=pretrained", f"model.name={stories}", "adapter=lora", "adapter.rank=2"]
    words += ["dataset.block_size=16", "evaluation.max_blocks=2", "trainer.max_steps=1"]
    folder = fit(*real_text, *store.overrides, *words, "optimizer.lr=0.02")
    model = model_of(store, folder)
    (adapter,) = files_of(model).rglob("adapter_model.safetensors")
    assert adapter.stat().st_ino == (folder / "checkpoint" / adapter.name).stat().st_ino
    assert not {file.suffix for file in files_of(model).rglob("*")} & {".pkl", ".bin", ".pt"}
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    asked = ["One day", "The cat"]
    answers = loaded.predict(asked, params={"max_new_tokens": 6})
    run = lmft.load(folder)
    plain = transformers.pipeline("text-generation", model=run.model(), tokenizer=run.tokenizer())
    for (likeliest,), answer in zip(
        plain(asked, max_new_tokens=6, do_sample=False), answers, strict=True
    ):
        assert answer == likeliest["generated_text"].strip()
    assert "peft==" in (files_of(model) / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a%b", "..", "x" * 251, 7, "a\nb"])
def test_a_name_that_can_not_be_registered_is_refused(name):
    with pytest.raises(UserError, match="tracker.register is"):
        MlflowTracker("sqlite:////nowhere.db", None, register=name)


def test_the_best_job_of_an_earlier_launch_is_registered_by_a_later_one(logged, store, tmp_path):
    copy = tmp_path / "copy"
    copy_of_run(logged[0], copy)
    MlflowTracker(store.uri, "lmft").upload(copy, "FINISHED")
    tracker = MlflowTracker(store.uri, "lmft", register="cats")
    for best in (copy, logged[0], copy):
        sweep = tracker.open_sweep("of copies", "of copies", {})
        tracker.close_sweep(sweep, True, tmp_path / "none", BestJob(folder=best))
        version = store.client.get_model_version_by_alias("cats", "best")
        assert version.run_id == store.run_of(best).info.run_id
    assert len(store.client.search_model_versions("name = 'cats'")) == 2
    store.client.set_registered_model_alias("cats", "best", "1")


@pytest.mark.soak
def test_a_served_model_answers_by_http(logged, in_store, store, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"-m mlflow models serve -m models:/cats@best --env-manager local --port {port}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it starts uvicorn by name
    server = subprocess.Popen(
        [sys.executable, *words.split()], env=os.environ | {"PATH": path}, start_new_session=True
    )

    def answers():
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping") as reply:
            return reply.status == 200

    try:
        wait_for(lambda: answers() or server.poll() is not None, 120)
        question = {"inputs": ["the cat"], "params": {"max_new_tokens": 3}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            (answer,) = json.loads(reply.read())["predictions"]
        assert answer.startswith("the cat")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
