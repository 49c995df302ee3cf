"""Weights are numbers, not programs; a model's own code runs only where it was asked for."""

import ast
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from lmft.dataset.tokenizer import load_tokenizer
from lmft.errors import UserError
from lmft.model.load import load_model
from lmft.objective import CausalLM
from lmft.runs.run import Run
from lmft.tracker.mlflow_page import find_page
from lmft.trainer.run_tokenizer import find_tokenizer
from tests.helpers.runs import compose

LMFT = Path(__file__).parents[2] / "lmft"
UNSAFE = re.compile(
    r"(pickle|cloudpickle|dill|joblib|marshal|shelve)\.(load|loads|open)|os\.(system|popen|exec\w*)|"
    r"(builtins\.)?(eval|exec|__import__)|yaml\.(load|full_load|unsafe_load)|torch\.hub\.\w+"
)
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def model_config(folder, *words):
    return Run(compose("model=pretrained", f"model.name={folder}", *words)).config


@pytest.fixture
def trained(stories, tmp_path):
    """A copy of a real model, to be changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in stories.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_pickled_weights_are_refused_with_the_command_that_converts_them(trained, tmp_path):
    from safetensors.torch import load_file

    weights = load_file(trained / "model.safetensors")
    (trained / "model.safetensors").unlink()
    torch.save(weights, trained / "pytorch_model.bin")
    config = model_config(trained)
    tokenizer = load_tokenizer(str(trained), None)
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle") as refused:
        load_model(config.model, CausalLM(), tokenizer, seed=0)
    code = re.search(r"convert it: (python -c \".*?\"),", str(refused.value))[1]
    exec(shlex.split(code)[2].replace("save_pretrained('", f"save_pretrained('{tmp_path}/new-"))
    (made,) = tmp_path.glob("new-*")
    for file in trained.glob("*token*"):
        (made / file.name).write_bytes(file.read_bytes())
    load_model(model_config(made).model, CausalLM(), tokenizer, seed=0)


def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(trained, tmp_path, caplog):
    mark = tmp_path / "ran"
    (trained / "own.py").write_text(CODE.format(mark=str(mark)))
    facts = json.loads((trained / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    facts |= {"model_type": "own", "auto_map": own}
    (trained / "config.json").write_text(json.dumps(facts))
    config = model_config(trained)
    tokenizer = find_tokenizer(config, {})
    with pytest.raises(UserError, match=r"model\.trust_remote_code=true"):
        load_model(config.model, CausalLM(), tokenizer, seed=0)
    assert not mark.exists() and "runs here" not in caplog.text
    trusting = model_config(trained, "model.trust_remote_code=true")
    load_model(trusting.model, CausalLM(), find_tokenizer(trusting, {}), seed=0)
    assert mark.exists()
    assert "model.trust_remote_code=true" in caplog.text and "runs here" in caplog.text


def test_nothing_in_lmft_unpickles_evaluates_or_asks_a_shell():
    for path in LMFT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name, more = (
                    ast.unparse(node.func),
                    {k.arg: ast.unparse(k.value) for k in node.keywords},
                )
                assert not UNSAFE.fullmatch(name), f"{path.name}: {name}"
                assert name != "torch.load" or more.get("weights_only") == "True", path.name
                assert more.get("shell", "False") == "False", path.name
                assert more.get("allow_pickle", "False") == "False", path.name


def test_the_page_listens_on_this_machine_alone():
    address, command = find_page("postgresql://host/runs", "lmft", 5000)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert address == "http://127.0.0.1:5000/"
    line = ["make", "-n", "ui", "STORE=sqlite:///x.db"]
    printed = subprocess.run(line, cwd=LMFT.parent, capture_output=True, text=True).stdout
    assert "lmft ui tracker.uri=sqlite:///x.db port=5000" in printed
