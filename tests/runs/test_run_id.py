"""Run folders are inside of run_root, whatever names they are made of."""

import os
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lmft.config.compose import load_composed
from lmft.config.schema import FORMERLY
from lmft.runs.run import Run
from lmft.runs.run_id import LONGEST_NAME, safe_name
from tests.helpers.runs import compose

CLIMBING = ["../../up", "/etc/cron.d/x", "..", ".", "~/x", "a/../../b", "x\x00y", "a\\b", "-rf"]
NAMES = st.text() | st.sampled_from(CLIMBING)


@given(NAMES)
def test_a_name_is_one_part_of_a_path_that_leads_nowhere_else(name):
    safe = safe_name(name)
    assert os.path.basename(safe) == safe and safe not in (".", "..") and len(safe) <= LONGEST_NAME
    assert safe_name(safe) == safe or safe.endswith(".")


@pytest.fixture(scope="module")
def composed(runs_of_module):
    return compose(*runs_of_module[1])


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("knob", ["dataset.name", "model.label"])
def test_no_run_folder_is_outside_of_run_root(knob, name, composed, tmp_path):
    composed = composed.copy()
    OmegaConf.update(composed, "run_root", str(tmp_path / "runs"))
    OmegaConf.update(composed, knob, name)
    folder = Run(composed).folder
    assert folder.parent == tmp_path / "runs" and "/" not in folder.name
    assert folder.resolve().parent == (tmp_path / "runs").resolve()


def test_the_name_of_an_experiment_is_not_a_path(fit, store, corpus, tmp_path):
    name = "../../../up"
    folder = fit(
        *corpus, *store.overrides, f"tracker.experiment_name={name}", "trainer.max_steps=1"
    )
    experiment = store.client.get_experiment_by_name(name)
    assert store.run_of(folder).info.experiment_id == experiment.experiment_id
    assert experiment.artifact_location.endswith("/mlartifacts")
    assert folder.parent == tmp_path / "runs"


KEYS_OF_8DCC21F = {  # command -> folder name; a run that was made then must be found again
    "": "gpt2_tiny-text_files-clm-e91efa8107",
    "objective=mlm model=bert_tiny": "bert_tiny-text_files-mlm-602969fe73",
    "objective=mlm model=bert_tiny objective.mask_fraction=0.25 seed=3": (
        "bert_tiny-text_files-mlm-a0cf45330a"
    ),
    "hardware.precision=bf16 model.dropout=0.1": "gpt2_tiny-text_files-clm-d219920915",
    "hardware.precision=fp32 hardware.micro_batch_size=2 trainer.batch_size=16": (
        "gpt2_tiny-text_files-clm-5ff00706f3"
    ),
    "hardware=ddp hardware.processes=2 hardware.precision=fp32": (
        "gpt2_tiny-text_files-clm-6903f449e0"
    ),
    "hardware=fsdp hardware.processes=2 hardware.precision=bf16": (
        "gpt2_tiny-text_files-clm-b9bca51b36"
    ),
    "trainer.patience=2 trainer.evaluate_every=5 trainer.max_steps=100": (
        "gpt2_tiny-text_files-clm-5669827c97"
    ),
    "trainer.on_nonfinite=skip trainer.checkpoint_every=7 trainer.checkpoint_minutes=null": (
        "gpt2_tiny-text_files-clm-811b4b67ba"
    ),
    "optimizer=adafactor trainer.schedule=cosine trainer.warmup_steps=10": (
        "gpt2_tiny-text_files-clm-dc4f13817e"
    ),
    "evaluation.context=64 evaluation.stride=16 evaluation.max_blocks=5": (
        "gpt2_tiny-text_files-clm-5f0a1c933b"
    ),
    r"dataset.separator='\n\n' dataset.block_size=64 dataset.document=file": (
        "gpt2_tiny-text_files-clm-339c933a59"
    ),
    "model.config={n_layer:1,n_embd:32,n_head:2} model.vocab_size=400 trainer.shuffle=false": (
        "gpt2_tiny-text_files-clm-317fbc69a3"
    ),
    "dataset.validation=null dataset.validation_fraction=0.2 tracker=none fresh=true debug=true": (
        "gpt2_tiny-text_files-clm-abea94e2d2"
    ),
}


@pytest.mark.parametrize("words", KEYS_OF_8DCC21F)
def test_runs_keep_the_keys_that_8dcc21f_gave_them(words, corpus):
    run = Run(compose(*corpus, *shlex.split(words)))
    assert run.folder.name == KEYS_OF_8DCC21F[words]


def test_knobs_younger_than_a_run_count_only_where_they_differ_from_what_it_did(corpus, tmp_path):
    keys = {Run(compose(*corpus)).key}
    words = ["evaluation.prefix=bos", "evaluation.prefix=x", "evaluation.windows=rolling"]
    words.append("hardware.deterministic=false")
    for word in words:
        keys.add(Run(compose(*corpus, word)).key)
    assert len(keys) == 1 + len(words)
    keys = {Run(compose(*corpus)).key}
    older = OmegaConf.to_container(compose(*corpus))
    for name in FORMERLY:
        group, _, knob = name.rpartition(".")
        del (older[group] if group else older)[knob]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(older))
    assert Run(load_composed(tmp_path / "config.yaml")).key in keys
