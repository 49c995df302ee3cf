"""The best weights of a run are a model that MLflow loads, serves and registers."""

import json
from pathlib import Path

import mlflow
import pytest
import transformers

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
def quiet(monkeypatch, tmp_path):
    """Nothing of MLflow's own defaults: a store in the working directory, progress bars."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "mlruns").exists()


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
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    yield
    mlflow.set_tracking_uri(before)


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
    kinds = {file.suffix for file in files.rglob("*") if file.is_file()}
    assert not kinds & {".pkl", ".bin", ".pt"} and not any(f.is_symlink() for f in files.rglob("*"))
    needed = (files / "requirements.txt").read_text()
    assert "torch==" in needed and "torchvision" not in needed and "+" not in needed


def test_mlflow_loads_the_weights_and_predicts(logged, in_store):
    folder, model = logged
    uri = f"models:/{model.model_id}"
    pipeline = mlflow.transformers.load_model(uri)
    expected = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint")
    for name, value in expected.state_dict().items():
        assert (pipeline.model.state_dict()[name] == value).all()
    loaded = mlflow.pyfunc.load_model(uri)
    (answer,) = loaded.predict(["the cat"], params={"max_new_tokens": 4})
    assert (
        answer.startswith("the cat")
        and answer == pipeline("the cat", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    )
    assert loaded.metadata.load_input_example(str(files_of(model))) is not None
    assert loaded.metadata.get_input_schema() and loaded.metadata.get_output_schema()
