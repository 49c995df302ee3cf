"""Paths and other texts are read as they are typed, whatever Hydra's grammar makes of them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from lmft.config.compose import compose
from lmft.config.error_messages import as_user_error
from lmft.config.model_knobs import ModelConfig
from lmft.config.quoting import GRAMMAR, quote_texts
from lmft.runs.run import Run
from tests.helpers.runs import compose as compose_words

ODD = ["~/notes", "données.txt", "a#1.txt", "year=2019/a.txt", "corpus (1)/a.txt", r"C:\x"]
ODD += ["{x}.txt", "it's.txt", "notes [old].txt", "R&D.txt", "中文.txt"]


@pytest.mark.parametrize("path", ODD)
def test_a_path_is_read_as_it_is_typed(path):
    assert compose([f"dataset.train={path}"]).dataset.train == path


@settings(max_examples=50)
@given(st.text("ab~#=(){}[]'é \\.&;", min_size=1).filter(lambda text: not GRAMMAR.match(text)))
def test_a_text_is_itself_once_quoted(text):
    (word,) = quote_texts([f"dataset.train={text}"])
    assert OverridesParser.create().parse_override(word).value() == (
        text if word.startswith("dataset.train='") else text.strip()
    )


def test_what_the_grammar_means_stays():
    words = ["dataset.train='a b'", "dataset.train=${seed}#", "run_root=[é]", "seed=é", "é"]
    assert quote_texts(words) == words


PATHS = {  # what is typed -> what it means
    "[a.txt,b/*.jsonl,~/notes]": ["a.txt", "b/*.jsonl", "~/notes"],
    "[données.txt, year=2019/a.txt ]": ["données.txt", "year=2019/a.txt"],
    "['a,b.txt',a#1.txt]": ["a,b.txt", "a#1.txt"],
    "[~/a/[xy].txt]": ["~/a/[xy].txt"],
    "[a b]": ["a b"],
}


@pytest.mark.parametrize("typed", PATHS)
def test_a_list_of_paths_is_read_as_it_is_typed(typed):
    assert compose([f"dataset.train={typed}"]).dataset.train == PATHS[typed]
    (word,) = quote_texts([f"dataset.train={typed},~/c"], sweep=True)
    parser = OverridesParser.create()
    values = list(parser.parse_override(word).sweep_string_iterator())
    read = [parser.parse_override(f"dataset.train={value}").value() for value in values]
    assert read == [PATHS[typed], "~/c"]


def test_a_list_of_paths_in_a_file_is_what_it_says(tmp_path):
    (tmp_path / "dataset").mkdir()
    text = "defaults: [text_files]\ntrain: [a.txt, ~/notes]\ntest: 2024\n"
    (tmp_path / "dataset" / "mine.yaml").write_text(text)
    config = Run(compose([f"--config-dir={tmp_path}", "dataset=mine"])).config.dataset
    assert config.train == ["a.txt", "~/notes"] and config.test == "2024"


def test_commas_part_values_in_a_sweep_alone():
    word = "dataset.train=~/a,b,é"
    assert quote_texts([word], sweep=True) == ["dataset.train='~/a',b,'é'"]
    with pytest.raises(Exception) as caught:
        compose_words(word)
    told = str(as_user_error(caught.value))
    assert "add -m" in told and told.endswith("""'dataset.train="~/a,b,é"'.""")


def test_home_is_found_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    composed = compose(["run_root=~/runs", "model=pretrained", "model.name=~/model"])
    assert composed.run_root == f"{tmp_path}/runs"
    assert ModelConfig(**composed.model).name == f"{tmp_path}/model"
