"""The command line: flags, verbs, help, and what the verbs compose."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from lmft.commands.arguments import all_flags, parse_line
from lmft.commands.verbs import VERBS
from lmft.config.compose import recompose
from lmft.errors import UserError

ROOT = Path(__file__).parents[2]
NOT_TAKEN = {"-h", "--help", "--hydra-help", "--experimental-rerun"}  # the last unpickles a file


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of a user's own experiments, named from where the command starts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nseed: 7\ndataset: {block_size: 32}\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(text)
    return "own"


@pytest.mark.parametrize("flags", [["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]])
@pytest.mark.parametrize("verb", [[], ["plan"]])
def test_flags_may_be_anywhere_in_the_line(flags, verb, own):
    words = [*verb, "experiment=mine", "seed=0,1"]
    expected = parse_line([*words, *flags])
    assert expected.verb == (verb[0] if verb else None)
    for place in range(len(words)):
        assert parse_line([*words[:place], *flags, *words[place:]]) == expected


def test_help_lists_the_choices_of_an_own_folder(own, capsys):
    with pytest.raises(SystemExit):
        parse_line(["--help", "--config-dir", own])
    groups = capsys.readouterr().out.partition("experiment=")[2]
    assert re.search(r"^ {4}mine$", groups, re.MULTILINE)


def test_a_flag_takes_its_value_from_the_next_word_and_no_other(own):
    for line in ("-c job -m seed=1", "-m -c job seed=1", "seed=1 -c job -m", "-c job seed=1 -m"):
        arguments = parse_line(line.split())
        assert (arguments.cfg, arguments.multirun, arguments.words) == ("job", True, ["seed=1"])


def test_the_flags_are_those_of_hydra():
    taken = set(all_flags()._option_string_actions)
    assert taken - {"--version"} == set(get_args_parser()._option_string_actions) - {
        *NOT_TAKEN, "--version"
    }  # fmt: skip


def test_a_verb_takes_its_own_knobs_and_leaves_the_others():
    line = "generate run=runs/a tokens=7 seed=3 model=gpt2 temperature=0.5 tokens=9"
    arguments = parse_line(line.split())
    assert (arguments.run, arguments.tokens, arguments.seed) == ("runs/a", 9, 3)
    assert (arguments.temperature, arguments.top_p, arguments.prompt) == (0.5, 0.95, "")
    assert arguments.words == ["model=gpt2"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("evaluate -m", "Unrecognized arguments: -m/--multirun; see lmft evaluate --help."),
        ("-c job evaluate", "Unrecognized arguments: -c/--cfg; see lmft evaluate --help."),
        ("compare --config-dir . a b", "-cd/--config-dir; see lmft compare --help."),
        ("plan --config-dri .", "see lmft plan --help. Did you mean '--config-dir'?"),
        ("--configdir .", "see lmft --help. Did you mean '--config-dir'?"),
        ("--cfg", "-c/--cfg: expected one argument; see lmft --help."),
        ("--cfg jobs", "choose from"),
        ("help", "no verb 'help'; lmft KNOB=VALUE ... trains, see lmft --help."),
        ("compare evaluation.split=tests", "evaluation.split is 'tests'; choose test, validation"),
    ],
)
def test_a_mistake_is_answered_with_the_way_out(line, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        parse_line(line.split())


def test_help_knows_every_verb_group_and_choice_within_the_terminal(command, monkeypatch):
    for columns in (80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, printed, _ = command("--help")
        assert code == 0 and all(len(line) < columns for line in printed.splitlines())
        assert all(re.search(rf"^    {verb} ", printed, re.M) for verb in VERBS)
        for path in (ROOT / "conf").glob("*/[!_]*.yaml"):
            assert re.search(rf"^    {path.stem} ", printed, re.M)
            assert f"{path.parent.name}=" in printed


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_its_own_knobs_and_an_example(verb, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, _ = command(f"{verb} --help run=x")
    assert code == 0 and printed.startswith(f"usage: lmft {verb} ")
    assert f"\n  {VERBS[verb].example}\n" in printed
    for knob in VERBS[verb].knobs:
        assert f"\n  {knob.name}={knob.metavar}" in printed
        assert not isinstance(knob.default, float) or f"(default {knob.default})" in printed
    assert all(len(line) < 80 for line in printed.splitlines())


@pytest.mark.parametrize("line", ["--version", "evaluate --version", "seed=1 --version"])
def test_the_version_is_that_of_the_package(line, command):
    assert command(line)[:2] == (0, f"lmft {version('lmft')}\n")


def test_a_run_of_an_own_folder_is_recomposed_wherever_that_is(own, command, tmp_path):
    small = "trainer.max_steps=1 evaluation.max_blocks=1 model.vocab_size=300 tracker=none"
    code, _, complaint = command(f"experiment=mine --config-dir {own} {small} cache_root=cache")
    assert code == 0, complaint
    (run,) = (path.parent for path in tmp_path.glob("runs/*/.hydra"))
    assert recompose(run, ["trainer=finetune"]).dataset.block_size == 32
    (tmp_path / own).rename(tmp_path / "moved")
    with pytest.raises(UserError, match="--config-dir=.*own, which is gone; add --config-dir=DIR"):
        recompose(run, ["trainer=finetune"])
    code, printed, complaint = command(f"evaluate run={run} tracker=none --config-dir moved")
    assert code == 0 and "context 32" in printed, complaint
