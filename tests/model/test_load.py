"""What is wrong with a model is said; what its config says as an integer counts, too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmft.dataset.tokenizer import load_tokenizer
from lmft.errors import UserError
from lmft.model.load import load_model
from lmft.runs.run import Run
from lmft.trainer.run_tokenizer import find_tokenizer
from tests.helpers.runs import compose


@pytest.fixture
def folder(stories, tmp_path):
    """A copy of a real model, to be changed."""
    return Path(shutil.copytree(stories, tmp_path / "model"))


def load(folder, *words):
    run = Run(compose("model=pretrained", f"model.name={folder}", *words))
    tokenizer = load_tokenizer(str(folder), None, trust_remote_code=False)
    return load_model(run.config.model, run.config.objective, tokenizer, seed=0)


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("rate", [0, 0.0, 1])
def test_a_dropout_rate_may_be_an_integer(rate, folder):
    change_config(folder, attention_dropout=rate)
    model = load(folder, "model.dropout=0.3")
    assert model.config.attention_dropout == 0.3
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.3}


def test_a_model_without_dropout_refuses_the_knob(stories):
    sizes = "{model_type: mamba, hidden_size: 32, state_size: 4, num_hidden_layers: 1}"
    words = ["model=pretrained", "model.name=null", "model.from_scratch=true"]
    words += ["model.tokenizer=corpus", f"model.architecture={sizes}"]
    tokenizer = load_tokenizer(str(stories), None, trust_remote_code=False)
    for rate in (0, 0.3):
        run = Run(compose(*words, f"model.dropout={rate}"))
        config, objective = run.config.model, run.config.objective
        if not rate:
            assert load_model(config, objective, tokenizer, seed=0)
            continue
        with pytest.raises(UserError, match=r"dropout is 0\.3, but MambaConfig has no dropout"):
            load_model(config, objective, tokenizer, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(value, folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    weights[name][3, 2] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"has values in {name} that are not finite"):
        load(folder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_a_wrapper_s_prefix_is_left_out_of_all_names(prefix, stories, folder, caplog):
    weights = load_file(folder / "model.safetensors")
    wrapped = {f"{prefix}{name}": weight for name, weight in weights.items()}
    save_file(wrapped, folder / "model.safetensors", {"format": "pt"})
    found, expected = load(folder).state_dict(), load(stories).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert f"begin with {prefix}, as" in caplog.text
    wrapped.popitem()
    wrapped["other"] = next(iter(weights.values())).clone()
    save_file(wrapped, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks"):
        load(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_a_quantized_model_is_named_as_one(method, folder):
    change_config(folder, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UserError, match=rf"is quantized \({method}\).*name the model that"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("{}", "does not name its base; change base_model_name_or_path"),
        ('{"base_model_name_or_path": "/gone/base"}', "of /gone/base, which is not there; change"),
    ],
)
def test_an_adapter_without_its_base_is_named_as_one(settings, told, tmp_path):
    (tmp_path / "adapter_config.json").write_text(settings)
    run = Run(compose("model=pretrained", f"model.name={tmp_path}"))
    with pytest.raises(UserError, match=told):
        find_tokenizer(run.config, {})
