"""What is wrong in a config file is said by its path; a BOM is ignored."""

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

from lmft.config import checked_files
from lmft.config.checked_files import CheckedFiles
from lmft.config.compose import compose

HEAD = "# @package _global_\n"
LR = "optimizer:\n  lr: 0.5\n"
WRONG = {  # an experiment: what its sentence has beside the path
    LR: "must begin with the line '# @package _global_'",
    "": "is empty",
    f"{HEAD}# to do\n": "is empty",
    f"{HEAD}- seed\n": "holds no lines of KNOB: VALUE",
    f"{HEAD}defaults:\n- model: bert_tiny\n": "write 'override /model: bert_tiny'",
    f"{HEAD}defaults:\n- /model: bert_tiny\n": "write 'override /model: bert_tiny'",
    f"{HEAD}defaults:\n- override model: bert_tiny\n": "write 'override /model: bert_tiny'",
    f"{HEAD}optimizer: adafactor\n": "write 'override /optimizer: adafactor'",
    f"{HEAD}optimizer.lr: 0.5\n": "write optimizer: {lr: 0.5}",
    f"{HEAD}optimizer:\n\tlr: 0.5\n": "line 3 is not YAML",
}


@pytest.fixture
def experiment(tmp_path):
    """Write an experiment; returns its path, and the words that choose it."""

    def write(content, name="mine", encoding="utf-8"):
        path = tmp_path / "experiment" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding=encoding)
        return path, f"--config-dir={tmp_path} experiment={name}"

    return write


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_experiment_is_named_with_the_line_to_write(content, experiment, command):
    path, words = experiment(content)
    code, _, complaint = command(words)
    assert code == 2 and str(path) in complaint and WRONG[content] in complaint
    assert complaint.count("\n") == 1


def test_another_encoding_is_named(experiment, command):
    path, words = experiment(f"{HEAD}# caf\xe9\n{LR}", encoding="latin-1")
    complaint = command(words)[2]
    assert f"{path} is not UTF-8: byte 25 is 0xe9, line 2; save it as UTF-8" in complaint


@pytest.mark.parametrize("name, encoding", [("mine", "utf-8-sig"), ("2024", "utf-8")])
def test_a_bom_and_a_numeric_name_do_no_harm(name, encoding, experiment):
    _, words = experiment(HEAD + LR, name, encoding)
    composed = compose(words.split())
    assert composed.optimizer.lr == 0.5 and "experiment" not in composed


def test_a_plus_before_a_group_is_not_needed(command):
    for word in ("+experiment=wikitext2_files", "++experiment=wikitext2_files", "+model=gpt2"):
        complaint = command(word)[2]
        group = word.strip("+").partition("=")[0]
        assert complaint == f"lmft: {group} is there already; set it without the +.\n"


def test_a_config_of_lmft_is_read_again_only_after_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(checked_files, "CONF", tmp_path)
    path = tmp_path / "optimizer.yaml"
    path.write_text("lr: 0.5\ndefaults: [_self_]\n")
    search_path = ConfigSearchPathImpl()
    search_path.append("main", f"file://{tmp_path}")
    files = CheckedFiles(search_path)
    first = files.load_config("optimizer")
    first.config.lr = 0.25  # as composing does to what it read
    first.defaults_list.clear()
    assert files.load_config("optimizer").config == {"lr": 0.5}
    assert len(files.load_config("optimizer").defaults_list) == 1
    path.write_text("lr: 0.125\n")
    assert files.load_config("optimizer").config == {"lr": 0.125}
