"""`lmft new experiment`: words become a commented file that composes into the same config."""

import shlex

import pytest
from omegaconf import OmegaConf

from lmft.config import CONF
from lmft.config.comments import read_comments
from lmft.config.compose import compose

LINES = [
    "seed=3 trainer.epochs=0.5 trainer.patience=null optimizer.lr=1e-5 optimizer.betas=[0.9,0.95] "
    "model=bert_tiny objective=mlm objective.mask_fraction=0.3 +optimizer.amsgrad=true",
    "model=gpt2 'model.config={n_layer: 4}' +model.config.n_head=2 adapter=lora adapter.rank=8",
    "dataset=text_files 'dataset.train=[a b.txt,~/x#1,é.txt]' "
    "\"dataset.name='1e-4'\" \"dataset.separator=': # {x}'\"",
    "experiment=distilgpt2_wikitext2 trainer.epochs=5 hydra/sweeper=lr_grid",
]


@pytest.mark.parametrize("line", LINES)
def test_the_file_composes_into_the_config_of_its_words(line, command, tmp_path):
    code, printed, complaint = command(f"new experiment mine {line}")
    assert (code, complaint) == (0, "")
    written, repeated = printed.splitlines()
    assert (tmp_path / written).is_file()
    words = shlex.split(repeated)
    assert words[:2] == ["lmft", "--config-dir"]
    own = compose([f"--config-dir={tmp_path / words[2]}", *words[3:]])
    assert OmegaConf.to_container(own) == OmegaConf.to_container(compose(shlex.split(line)))


def test_each_knob_has_its_meaning_beside_it(command, tmp_path):
    line = (
        "model=gpt2 trainer.batch_size=32 hardware.micro_batch_size=4 adapter=lora adapter.rank=8"
    )
    assert command(f"new experiment mine {line}")[0] == 0
    text = (tmp_path / "conf" / "experiment" / "mine.yaml").read_text().splitlines()
    assert text[0] == "# @package _global_"
    assert "  - override /model: gpt2     # GPT-2: causal, 124 million weights." in text
    assert "  batch_size: 32              # blocks per optimizer step" in text
    assert any(line.startswith("  rank: 8    ") and "# inner size" in line for line in text)
    (size,) = [row for row in text if "micro_batch_size: 4" in row]
    assert size.endswith("auto on a GPU")  # the second line of its comment in conf/


def test_it_goes_to_the_users_own_folder_and_finds_what_is_there(command, tmp_path):
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "mine.yaml").write_text(
        "# My letters.\ndefaults: [text_files, _self_]\nname: mine\ntrain: a.txt  # of 2020\n"
    )
    line = "dataset=mine dataset.train=b.txt"
    for more, name in (("--config-dir own", "one"), ("out=own", "two")):
        code, printed, complaint = command(f"new experiment {name} {line} {more}")
        assert (code, complaint) == (0, "")
        assert printed.startswith(f"own/experiment/{name}.yaml\nlmft --config-dir own ")
        text = (tmp_path / "own" / "experiment" / f"{name}.yaml").read_text()
        assert "# My letters." in text and "train: b.txt                # of 2020" in text
    assert not (tmp_path / "conf").exists()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"new experiment mine seed=1 out={CONF}", "lmft's own folder; write elsewhere"),
        ("new experiment mine seed=1 --config-dir own", "own/experiment/mine.yaml exists"),
        ("new experiment mine seed=2 optimizer.lr=-1 out=new", "optimizer.lr must be"),
    ],
)
def test_nothing_is_overwritten_and_no_wrong_file_is_written(line, sentence, command, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    mine = tmp_path / "own" / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\nseed: 7\n")
    code, _, complaint = command(line)
    assert code == 2 and sentence in complaint
    assert not (tmp_path / "new").exists() and mine.read_text().endswith("seed: 7\n")


def test_every_knob_of_a_value_in_conf_has_a_comment():
    """So that an experiment and a reference can say what it means."""
    without = {"dataset.name", "dataset.source", "optimizer._target_", "optimizer._partial_"}
    for group in ("trainer", "dataset", "model", "evaluation", "hardware", "optimizer", "adapter"):
        for path in (CONF / group).glob("*.yaml"):
            if path.stem in ("_base", "adamw", "finetune", "default", "auto"):
                loaded = OmegaConf.load(path)
                names = {f"{group}.{name}" for name in loaded.get(group, loaded)}
                names -= {*without, f"{group}.defaults"}
                assert names <= set(read_comments(path, f"{group}.")), path
