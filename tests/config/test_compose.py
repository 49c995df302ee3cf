"""Composing changes nothing in the process, and `debug` counts wherever it is set."""

import pytest
from hydra._internal import hydra as hydra_entry
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from lmft.config.guarded_loader import GuardedLoader, guarded_hydra
from lmft.config.knob_metadata import Decides
from lmft.config.schema import decides
from lmft.errors import UserError
from lmft.storage.hashing import digest
from lmft.sweep.callback import common_knobs
from tests.helpers.runs import compose


def test_composing_restores_the_loader_of_hydra():
    compose("seed=1")
    assert hydra_entry.ConfigLoaderImpl is ConfigLoaderImpl
    with pytest.raises(UserError), guarded_hydra():
        assert hydra_entry.ConfigLoaderImpl is GuardedLoader
        compose("optimizer._target_=os.system")
    assert hydra_entry.ConfigLoaderImpl is ConfigLoaderImpl


def test_debug_in_a_file_shows_the_traceback(command, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    experiment = tmp_path / "own" / "experiment" / "mine.yaml"
    experiment.write_text("# @package _global_\ndebug: true\n")
    words = f"--config-dir {tmp_path / 'own'} experiment=mine trainer.epochs=-1"
    code, _, complaint = command(words)
    assert code == 2 and "Traceback" in complaint and "lmft: trainer.epochs must be" in complaint
    for line in (f"{words} debug=false", "trainer.epoch=3"):  # nor does a later command
        code, _, complaint = command(line)
        assert code == 2 and "Traceback" not in complaint
        command(words)


@pytest.mark.parametrize(
    ("names", "decided"),
    [
        ("hardware.device hardware.strategy hardware.processes hardware.compile", Decides.speed),
        ("hardware.micro_batch_size hardware.checkpoint_activations", Decides.speed),
        ("trainer.checkpoint_every trainer.checkpoint_minutes", Decides.speed),
        ("run_root cache_root fresh debug tracker.uri dataset.source.name", Decides.location),
        ("evaluation.split evaluation.mask_draws", Decides.scoring),
        ("seed hardware.precision optimizer.lr objective.mask_fraction", Decides.numbers),
    ],
)
def test_each_knob_declares_what_it_decides(names, decided):
    assert {name: decides(name) for name in names.split()} == dict.fromkeys(names.split(), decided)


def test_sweeps_keep_the_keys_that_8dcc21f_gave_them():
    keys = {
        ("optimizer.lr", "seed"): "5d142dffc1",
        ("objective.mask_fraction",): "57bb0756ba",
    }
    masked = "model=bert_tiny objective=mlm hardware=cpu hardware.precision=bf16 tracker=none"
    words = [[], [*masked.split(), "trainer.checkpoint_every=3"]]
    for (names, key), overrides in zip(keys.items(), words, strict=True):
        tree = OmegaConf.to_container(compose(*overrides), resolve=False)
        assert digest([common_knobs(tree, list(names)), sorted(names), None])[:10] == key
