"""A config from a stranger runs no code, reads no file and learns no secret."""

import builtins
import copy
import inspect
import os
import sys
import urllib.request

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmft import objective
from lmft.config import CONF
from lmft.config.allowlist import OPTIMIZERS, SEARCHES, TARGETS, check_config
from lmft.config.build import check_types
from lmft.config.compose import load_composed, register_resolvers
from lmft.config.knobs import walk
from lmft.dataset import sources
from lmft.errors import UserError
from lmft.runs.listing import list_runs
from tests.helpers.runs import compose

TRICKS = [
    "builtins.open",
    "os.system",
    "urllib.request.urlopen",
    "torch.load",
    "torch.optim.AdamW.__init__.__globals__",
    "torch.optim.lr_scheduler.torch.load",
    "lmft.objective.torch.load",
    "lmft.storage.atomic.shutil.rmtree",
    "lmft.dataset.sources.glob.os.system",
    "lmft.tracker.mlflow_store.os.system",
    "lmft.tracker.MlflowTracker.__class__",
    "lmft.objective.CausalLM ",
    "lmft.objective.causallm",
    "",
    "${seed}",
]
TARGET_KNOBS = [
    "objective._target_",
    "optimizer._target_",
    "tracker._target_",
    "dataset.source._target_",
    "+model.config._target_",
    "+trainer.nested.deeper._target_",
    "+hydra.callbacks.other._target_",
    "hydra.callbacks.sweep._target_",
    "hydra.launcher._target_",
    "hydra.sweeper._target_",
    "+hydra.job_logging.handlers.x._target_",
]
WORDS = {  # each with what the sentence names
    "+model.config={a: [{_target_: os.system}]}": "model.config.a[0]._target_",
    "+optimizer._args_=[1]": "optimizer._args_",
    "+objective.mask_fraction={_target_: os.system, _partial_: true}": "_target_",
    "tracker.experiment_name='${oc.env:HF_TOKEN}'": "HF_TOKEN",
    "tracker.experiment_name='${oc.env:HF_TOKEN,none}'": "HF_TOKEN",
    "tracker.experiment_name='${oc.env:DATABASE_URL}'": "DATABASE_URL",
    "tracker.experiment_name='${oc.env:MLFLOW_TRACKING_URI}'": "MLFLOW_TRACKING_URI",
    "run_root='${oc.env:SECRET_DIR}'": "SECRET_DIR",
    "run_root='${oc.env:${tracker.experiment_name}}'": "tracker.experiment_name",
    "model.config='${oc.decode:\"{_target_: os.system}\"}'": "oc.decode",
    "tracker='${oc.create:${dataset}}'": "oc.create",
    "run_root='${oc.dict.values:dataset}'": "oc.dict.values",
    "run_root='${hydra:overrides.task}'": "hydra",
    "run_root='${${tracker.experiment_name}:HF_TOKEN}'": "tracker.experiment_name",
    "run_root='x${either:${seed},${oc.env:HF_TOKEN},1}'": "HF_TOKEN",
    "hydra.run.dir=/tmp": "hydra.run.dir",
    "hydra.sweep.dir=..": "hydra.sweep.dir",
    "hydra.sweep.subdir=../..": "hydra.sweep.subdir",
    "hydra.output_subdir=.hydra": "hydra.output_subdir",
    "+hydra.job.env_set.GIT_CONFIG_COUNT=1": "hydra.job.env_set",
}
SLURM = {
    "hydra.launcher.setup=['rm -r x']": "hydra.launcher.setup",
    'hydra.launcher.comment="a\nrm -r x"': "hydra.launcher.comment",
    "hydra.launcher.submitit_folder=/tmp/x": "hydra.launcher.submitit_folder",
}


@pytest.fixture
def alarm(monkeypatch):
    """The calls of functions that no config may call."""
    called = []
    for module, name in ((os, "system"), (urllib.request, "urlopen")):
        monkeypatch.setattr(module, name, lambda *a, **k: called.append(a))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s3cr3t" * 5)
    return called


@pytest.fixture(scope="module")
def whole():
    """The whole config of the slurm launcher, with Hydra's own node."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", ["hydra/launcher=slurm"], return_hydra_config=True)


def refused(whole, word):
    """The message that refuses `whole` with this override."""
    config = copy.deepcopy(whole)
    OmegaConf.set_struct(config, False)
    OmegaConf.set_readonly(config, False)
    (override,) = OverridesParser.create().parse_overrides([word])
    key = override.key_or_group.replace("/", ".")
    tree = OmegaConf.to_container(config, resolve=False)
    *parents, last = key.split(".")
    branch = tree
    for parent in parents:
        if not isinstance(branch.get(parent), dict):
            branch[parent] = {}
        branch = branch[parent]
    branch[last] = plain_value(override.value())
    with pytest.raises(UserError) as found:
        check_config(tree)
    return str(found.value)


def plain_value(value):
    if isinstance(value, dict):
        return {key: plain_value(some) for key, some in value.items()}
    if isinstance(value, list):
        return [plain_value(some) for some in value]
    return getattr(value, "text", value)


@pytest.mark.parametrize("knob", TARGET_KNOBS)
def test_only_exact_names_may_stand_in_a_target(knob, whole, alarm):
    for trick in TRICKS:
        assert knob.lstrip("+") in refused(whole, f"{knob}='{trick}'")
    assert alarm == []


@pytest.mark.parametrize("word", WORDS)
def test_a_config_neither_hides_a_target_nor_reads_a_secret(word, whole, alarm):
    sentence = refused(whole, word)
    assert WORDS[word] in sentence and "s3cr3t" not in sentence
    assert alarm == []


@pytest.mark.parametrize("word", SLURM)
def test_a_launcher_takes_no_commands(word, whole):
    assert SLURM[word] in refused(whole, word)


def test_the_command_refuses_before_hydra_makes_anything(command, tmp_path, alarm):
    (tmp_path / "more" / "hydra" / "callbacks").mkdir(parents=True)
    (tmp_path / "more" / "experiment").mkdir()
    bad = {"_target_": "os.system", "command": "touch stolen"}
    told = {"hydra": {"callbacks": {"x": bad}}}
    text = "# @package _global_\n" + yaml.safe_dump(told)
    (tmp_path / "more" / "experiment" / "bad.yaml").write_text(text)
    (tmp_path / "more" / "own.yaml").write_text("hydra:\n  searchpath: [pkg://antigravity]\n")
    for line in (
        "+hydra.callbacks.x._target_=os.system",
        "hydra/job_logging=default",
        "hydra.searchpath=[pkg://antigravity]",
        "hydra.searchpath=['${oc.env:HF_TOKEN}']",
        "-m hydra.sweeper._target_=os.system seed=0,1",
        "-c job tracker._target_=os.system",
        "--config-dir more --config-name own",
    ):
        code, printed, complaint = command(line)
        assert code == 2 and complaint.count("\n") == 1, line
        assert "s3cr3t" not in printed + complaint
    assert "antigravity" not in sys.modules
    code, _, complaint = command("--config-dir more experiment=bad")
    assert code == 2 and "hydra.callbacks.x" in complaint
    tagged = "# @package _global_\nseed: !!python/object/apply:os.system [touch stolen]\n"
    (tmp_path / "more" / "experiment" / "tagged.yaml").write_text(tagged)
    code, _, complaint = command("--config-dir more experiment=tagged")
    assert code == 2 and complaint.count("\n") == 1 and "os.system" in complaint
    assert alarm == [] and not (tmp_path / "stolen").exists()


def test_the_folder_of_a_strangers_run_is_read_with_the_same_care(tmp_path, alarm, monkeypatch):
    folder = tmp_path / "run-0123456789" / ".hydra"
    folder.mkdir(parents=True)
    for bad in ({"tracker": {"_target_": "os.system"}}, {"seed": "${oc.env:HF_TOKEN}"}):
        (folder / "config.yaml").write_text(yaml.safe_dump(bad))
        with pytest.raises(UserError):
            load_composed(folder / "config.yaml")
        (entry,) = list_runs(tmp_path)
        assert entry.knobs == {}
    assert alarm == []


KEYS = st.text().filter(lambda key: not key.startswith("_"))  # such as _args_, refused as well


@settings(max_examples=25)
@given(st.recursive(st.just("x"), lambda some: st.lists(some) | st.dictionaries(KEYS, some)))
def test_a_target_is_found_at_any_depth(tree):
    planted = OmegaConf.to_container(OmegaConf.create({"a": [{"b": tree}, {"_target_": "x"}]}))
    with pytest.raises(UserError, match="_target_"):
        check_config(planted)


def test_the_config_of_lmft_is_allowed_and_paths_may_come_from_variables(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    config = compose(
        "run_root='${oc.env:SCRATCH}/runs'", "tracker.uri='${oc.env:MLFLOW_TRACKING_URI,x}'"
    )
    assert config.run_root == "/scratch/runs"


def test_the_names_are_those_of_the_libraries_that_are_installed():
    import optuna
    import torch

    exported = {
        f"torch.optim.{name}"
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    }
    assert exported - {"torch.optim.Optimizer"} == OPTIMIZERS
    for name in SEARCHES:
        _, module, kind = name.split(".")
        assert inspect.isclass(getattr(getattr(optuna, module), kind))
    for module, group in ((objective, "objective"), (sources, "dataset.source")):
        named = {name.rpartition(".")[2] for name in TARGETS[group]}
        assert named <= {name for name, kind in vars(module).items() if inspect.isclass(kind)}


def test_every_target_of_conf_is_allowed_where_it_stands():
    for path in CONF.rglob("*.yaml"):
        group = ".".join(path.relative_to(CONF).parent.parts)
        for knob, value in walk(yaml.safe_load(path.read_text()), group):
            if knob.endswith("_target_"):
                group = knob.removesuffix("._target_")
                assert value in TARGETS[group], knob


def test_open_is_not_called(monkeypatch, tmp_path):
    composed = compose()
    composed.tracker = {"_target_": "builtins.open", "file": str(tmp_path / "secret")}
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: (opened.append(a), real(*a, **k))[1])
    with pytest.raises(UserError):
        check_types(composed)
    assert opened == []
