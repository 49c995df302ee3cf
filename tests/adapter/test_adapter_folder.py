"""What a run with an adapter leaves: a folder for peft, known by every verb, merged on demand."""

import hashlib
import json
import shutil
from argparse import Namespace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import lmft
from lmft.adapter.adapter_files import WEIGHTS, is_adapted
from lmft.commands.chat import choose_model, open_causal_model
from lmft.commands.evaluate import evaluate
from lmft.commands.generate import generate
from lmft.errors import UserError
from lmft.evaluation.generation import Sampling
from lmft.model.load import load_trained
from lmft.output.terminal import Terminal
from lmft.runs.run import Run
from lmft.storage.hub import content_digest
from lmft.trainer.run_tokenizer import find_tokenizer
from tests.helpers.runs import compose, read_result, repeatable_metrics

WORDS = [
    "model=pretrained", "dataset.block_size=32", "dataset.separator=none", "trainer.batch_size=4",
    "trainer.max_steps=4", "evaluation.max_blocks=20", "adapter=lora", "adapter.rank=4",
    "adapter.dropout=0.1", "optimizer.lr=1e-2",
]  # fmt: skip
GREEDY = Sampling(8, 0.0, 1.0, 0)


def hash_of(folder):
    files = sorted(folder.iterdir())
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


@pytest.fixture(scope="module")
def trained(runs_of_module, stories, real_text):
    """The folder of a run with an adapter, and its words; the base is as it was."""
    before = hash_of(stories)
    words = [*WORDS, *real_text, f"model.name={stories}", "trainer.evaluate_every=2"]
    folder = runs_of_module[0](*words)
    assert hash_of(stories) == before
    return folder, words


@pytest.fixture
def merged(trained, tmp_path):
    return lmft.load(trained[0]).merge(tmp_path / "merged")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what peft calls in transformers
def test_peft_loads_what_a_run_leaves(trained, stories):
    from peft import PeftModel

    folder, ids = trained[0] / "checkpoint", torch.arange(30)[None]
    files = {path.name for path in folder.iterdir()}
    assert {WEIGHTS, "adapter_config.json", "tokenizer.json"} <= files
    assert "model.safetensors" not in files
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(stories)
    base = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32)
    alone = base(ids).logits
    theirs = PeftModel.from_pretrained(base, folder)(ids).logits
    ours = lmft.load(trained[0]).model()(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, alone, atol=1e-2)


def test_a_base_with_another_config_is_loaded_with_it(trained):
    run, words = lmft.load(trained[0]), [*trained[1], "model.config={rms_norm_eps: 0.1}"]
    config = Run(compose(*words)).config
    model = load_trained(run.checkpoint, config.model, config.objective, run.tokenizer())
    assert is_adapted(model) and model.config.rms_norm_eps == 0.1
    assert run.model().config.rms_norm_eps != 0.1


@pytest.mark.parametrize(
    "more", ["", "hardware.precision=bf16 adapter=dora adapter.targets=[v_proj]"]
)
def test_a_resumed_run_ends_with_the_same_bits(more, trained, runs_of_module, fit):
    words = [*trained[1], *more.split()]
    whole = runs_of_module[0](*words)
    pruned = fit(*words, prune=lambda step, folder: step == 2)
    with safe_open(pruned / "checkpoints" / "step-2" / "state.safetensors", "pt") as file:
        names = [name for name in file.keys() if not name.startswith("optimizer.")]  # noqa: SIM118
    assert names and all("lora_" in name for name in names)  # of the base, nothing
    resumed = fit(*words)
    assert repeatable_metrics(resumed) == repeatable_metrics(whole)
    assert content_digest(str(resumed / "checkpoint"), "") == content_digest(
        str(whole / "checkpoint"), ""
    )


def test_a_run_from_another_trains_its_adapter_on(trained, runs_of_module):
    words = [word for word in trained[1] if not word.startswith(("model", "adapter"))]
    folder = runs_of_module[0](*words, f"from_run={trained[0]}", "trainer.max_steps=1")
    before, result = read_result(trained[0]), read_result(folder)
    assert result["baseline"] == {k: before["validation"][k] for k in result["baseline"]}
    assert result["validation"]["loss"] != before["validation"]["loss"]
    names = [{path.name for path in (run / "checkpoint").iterdir()} for run in (folder, trained[0])]
    assert names[0] == names[1] and WEIGHTS in names[0]
    settings = [run / "checkpoint" / "adapter_config.json" for run in (folder, trained[0])]
    assert settings[0].read_text() == settings[1].read_text()
    with pytest.raises(UserError, match="trained an adapter; leave adapter=lora out"):
        runs_of_module[0](*words, f"from_run={trained[0]}", "adapter=lora")


def test_a_changed_base_is_changed_again_wherever_the_run_is_scored(trained, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(trained[0], folder)
    config = folder / ".hydra" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("  config: null", "  config: {rms_norm_eps: 0.1}"))
    assert config.read_text() != text
    scored = evaluate(
        str(folder), ["evaluation.split=validation", "hardware=cpu"], Terminal.quiet()
    )
    (folder / "result.json").unlink()  # the loss there is that of the base as it was
    again = evaluate(str(folder), ["evaluation.split=validation", "hardware=cpu"], Terminal.quiet())
    assert abs(again["loss"] - scored["loss"]) > 0.01


def test_two_ranks_are_compared_as_any_two_runs(trained, runs_of_module):
    higher = runs_of_module[0](*trained[1], "adapter.rank=8")
    comparison = lmft.compare(trained[0], higher)
    assert sorted(comparison.table["adapter.rank"]) == [4, 8]
    assert len(comparison.pairs) == 1 and "not ranked" not in comparison.text
    losses = sorted(read_result(run)["validation"]["loss"] for run in (trained[0], higher))
    assert list(comparison.table["loss"]) == losses


def test_every_verb_knows_a_run_with_an_adapter(trained, merged):
    folder, _ = trained
    own = read_result(folder)["validation"]
    words = ["evaluation.split=validation", "hardware=cpu"]
    assert evaluate(str(folder), words, Terminal.quiet())["loss"] == own["loss"]
    (folder / "evaluations.json").unlink(missing_ok=True)
    text = lmft.load(folder).generate("One day", tokens=8, temperature=0)
    words = ["model=pretrained", "hardware.precision=fp32"]
    assert generate(str(folder), words[1:], "One day", GREEDY) == [text]
    of_folders = [
        generate(None, [*words, f"model.name={name}"], "One day", GREEDY)
        for name in (folder / "checkpoint", merged)
    ]
    assert of_folders[0] == of_folders[1]


def test_in_bf16_weights_of_the_base_that_are_trained_answer(trained, fit):
    words = ["adapter.train_also=[embeddings]", "adapter.bias=all", "trainer.max_steps=1"]
    folder = fit(*trained[1], *words, "hardware.precision=bf16")
    run = lmft.load(folder)
    assert run.values["hardware"]["precision"] == "bf16"
    assert len(run.generate("One day", tokens=8)) > len("One day")
    assert run.chat("One day", tokens=8)


def test_the_merged_model_scores_the_same_and_is_ordinary(trained, merged):
    folder, words = trained
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert not hasattr(model, "peft_config")
    data = [word for word in words if word.startswith("dataset")]
    scored = evaluate(
        None,
        ["model=pretrained", f"model.name={merged}", *data, f"run_root={folder.parent}",
         "evaluation.split=validation", "evaluation.max_blocks=20", "hardware=cpu", "tracker=none"],
        Terminal.quiet(),
    )  # fmt: skip
    assert scored["loss"] == pytest.approx(read_result(folder)["validation"]["loss"], abs=1e-5)


def test_a_chat_takes_the_folder_of_an_adapter(trained):
    name, words = choose_model(Namespace(words=[str(trained[0] / "checkpoint")], run=None))
    opened = open_causal_model(name, [*words, "hardware=cpu"])
    assert is_adapted(opened.model)


def test_an_adapter_is_trained_on_from_its_folder(trained, fit):
    words = [word for word in trained[1] if not word.startswith(("adapter", "model.name"))]
    folder = fit(*words, f"model.name={trained[0] / 'checkpoint'}", "trainer.max_steps=2")
    result = read_result(folder)
    assert result["baseline"]["loss"] == pytest.approx(
        read_result(trained[0])["validation"]["loss"], abs=1e-6
    )
    assert (folder / "checkpoint" / WEIGHTS).exists()


def test_the_content_of_the_base_is_part_of_what_an_adapter_is(trained, stories, tmp_path):
    digests = set()
    for name in ("one", "other"):
        base = shutil.copytree(stories, tmp_path / name)
        if name == "other":
            (base / "config.json").write_text((base / "config.json").read_text() + " ")
        adapter = shutil.copytree(trained[0] / "checkpoint", tmp_path / "adapter")
        settings = json.loads((adapter / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = str(shutil.move(base, tmp_path / "base"))
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        digests.add(content_digest(str(adapter), "main"))
        shutil.rmtree(tmp_path / "base")
        shutil.rmtree(adapter)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("adapter.rank=8", "adapter.rank is set, but there is no adapter; add adapter=lora"),
        ("adapter=lora adapter.rank=null", "adapter.rank has no value"),
        ("adapter=lora adapter.targets=[q_prj]", "'q_prj'.*Did you mean 'q_proj'"),
        ("adapter=lora adapter.targets=nothing", "targets=nothing fits no linear map"),
        ("adapter=lora adapter.train_also=[norm]", "train_also has 'norm'; choose embeddings or"),
        ("adapter=lora adapter.quantize=nf4", "nf4, which bitsandbytes computes"),
        ("adapter=lora model.from_scratch=true", "adapter=lora adapts pretrained weights"),
        ("adapter=lora model.freeze=[head]", "but the base of adapter=lora is frozen already"),
        ("model.freeze=[layers.3-9]", r"'layers.3-9', but LlamaForCausalLM has layers.0-4"),
        ("model.freeze=[layer.1]", r"'layer.1'; choose from embeddings, layers.N"),
    ],
)
def test_what_does_not_fit_is_named(words, told, stories, corpus):
    run = Run(compose("model=pretrained", f"model.name={stories}", *corpus, *words.split()))
    from lmft.model.load import load_model

    with pytest.raises(UserError, match=told):
        config, tokenizer = run.config, find_tokenizer(run.config, {})
        load_model(config.model, config.objective, tokenizer, 0, config.adapter)


def test_an_adapter_of_an_adapter_is_refused(trained):
    name = f"model.name={trained[0] / 'checkpoint'}"
    run = Run(compose("model=pretrained", name, "adapter=lora"))
    with pytest.raises(UserError, match="is an adapter already; leave adapter=lora out"):
        find_tokenizer(run.config, {})
