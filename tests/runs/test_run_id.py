"""A run's folder: whatever its parts are called, it lies in run_root and nowhere else."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmft.config.build import read_config
from lmft.dataset.splits import open_splits
from lmft.runs.run_id import LONGEST_NAME, name_folder, safe_name
from tests.conftest import compose

CLIMBING = ["../../up", "/etc/cron.d/x", "..", ".", "~/x", "a/../../b", "x\x00y", "a\\b", "-rf"]
NAMES = st.text() | st.sampled_from(CLIMBING)


@given(NAMES)
def test_a_name_is_one_part_of_a_path_that_leads_nowhere_else(name):
    safe = safe_name(name)
    assert os.path.basename(safe) == safe and safe not in (".", "..") and len(safe) <= LONGEST_NAME
    assert safe_name(safe) == safe or safe.endswith(".")


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("knob", ["dataset.name", "model.label"])
def test_no_run_climbs_out_of_run_root(knob, name, corpus, tmp_path):
    composed = compose(*corpus, f"run_root={tmp_path / 'runs'}")
    group, field = knob.split(".")
    composed[group][field] = name
    config, values = read_config(composed)
    folder = name_folder(config, values, open_splits(config.dataset))
    assert folder.path.parent == tmp_path / "runs" and "/" not in folder.path.name
    assert folder.path.resolve().parent == (tmp_path / "runs").resolve()


def test_an_experiment_is_no_place(fit, store, corpus, tmp_path):
    name = "../../../up"
    folder = fit(
        *corpus, *store.overrides, f"tracker.experiment_name={name}", "trainer.max_steps=1"
    )
    experiment = store.client.get_experiment_by_name(name)
    assert store.run_of(folder).info.experiment_id == experiment.experiment_id
    assert experiment.artifact_location.endswith("/mlartifacts")
    assert folder.parent == tmp_path / "runs"
