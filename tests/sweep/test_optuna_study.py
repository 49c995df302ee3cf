"""An Optuna study: its space in Hydra's syntax, and its trials over several launches."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import given
from hypothesis import strategies as st

from hydra_plugins.lmft_optuna.space import as_overrides, corner_points, match_grid, read_space
from lmft.errors import UserError
from lmft.sweep.optuna_study import NEVER, Study, open_trial

RANDOM = {"_target_": "optuna.samplers.RandomSampler"}


def read_back(word):
    (override,) = OverridesParser.create().parse_overrides([word])
    return override.value()


def draw(word, seed=0):
    """A value that a study draws from the sweep in `word`, and the override that a job gets."""
    space, _ = read_space([word])
    sampler = optuna.samplers.RandomSampler(seed)
    trial = optuna.create_study(sampler=sampler).ask(space)
    (override,) = as_overrides(trial.params)
    return *trial.params.values(), override


ENDS = st.tuples(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12)).map(sorted)
LEAVES = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)


@given(ENDS, st.sampled_from(["{}", "tag(log, {})", "int({})"]), st.integers(0, 99))
def test_a_number_that_is_drawn_reaches_the_job_as_it_is(ends, kind, seed):
    low, high = (end + (1 if kind == "int({})" else 0) for end in ends)
    drawn, word = draw(f"a.b={kind.format(f'interval({low!r}, {high!r})')}", seed)
    parsed = read_back(word)
    assert parsed == drawn and type(parsed) is type(drawn)
    assert int(low) <= parsed <= high


@given(
    st.lists(LEAVES | st.lists(LEAVES | st.just("null"), max_size=2), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_a_choice_that_is_drawn_reaches_the_job_as_it_is(choices, seed):
    def write(value):
        if isinstance(value, list):
            return f"[{','.join(map(write, value))}]"
        if isinstance(value, str):
            return QuotedString(value, Quote.single).with_quotes()
        return repr(value).lower() if isinstance(value, bool) else repr(value)

    _, word = draw(f"a.b=choice({','.join(map(write, choices))})", seed)
    assert read_back(word) in choices


@pytest.mark.parametrize(
    "sweep",
    ["range(4, 32, step=4)", "range(9, 0, -2)", "range(0.1, 0.5, 0.1)", "range(1, 2, 0.3)", "1,2"],
)
def test_a_range_is_the_same_values_as_in_any_sweep(sweep):
    (override,) = OverridesParser.create().parse_overrides([f"a={sweep}"])
    expected = {float(value) for value in override.sweep_string_iterator()}
    found = {float(read_back(draw(f"a={sweep}", seed)[1])) for seed in range(50)}
    assert sorted(found) == pytest.approx(sorted(expected), rel=1e-12)


def test_the_command_line_outranks_the_file_and_fixed_words_go_to_all_jobs():
    words = ["a=interval(1, 2)", "b=choice(x, y)", "c=3", "a=choice(5, 6, 7)", "b=z", "+d=[1,2]"]
    space, shared = read_space(words)
    assert space == {"a": optuna.distributions.CategoricalDistribution(("5", "6", "7"))}
    assert shared == ["b=z", "c=3", "+d=[1,2]"]
    assert corner_points(space) == [{"a": "5"}, {"a": "6"}, {"a": "7"}]


@pytest.mark.parametrize(
    "word",
    ["a=1", "a=range(3, 3)", "a=interval(2, 1)", "a=tag(log, interval(0, 1))",
     "a=tag(lg, interval(1, 2))", "a=tag(log, choice(1, 2))", "a=tag(log, range(1.0, 2, 0.5))"],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(word):
    with pytest.raises(UserError, match="search"):
        read_space([word])


def facts_of(folder, pruner=NEVER):
    return {"name": "study", "storage": f"sqlite:///{folder / 'study.db'}", "pruner": pruner}


def test_trials_that_were_cut_off_come_first_with_their_numbers_and_values(tmp_path):
    space, _ = read_space(["a=interval(0, 1)", "b=choice(x, y)"])
    first = Study(facts_of(tmp_path), RANDOM, seed=0)
    before = first.next_trials(space, n_jobs=4, n_trials=6)
    assert list(before) == [0, 1, 2, 3]
    first.tell(0, "finished", 1.0)
    first.tell(2, "running", 9.0)  # its process was killed
    again = Study(facts_of(tmp_path), RANDOM, seed=0)
    assert again.next_trials(space, n_jobs=4, n_trials=6) == {1: before[1]}
    again.tell(1, "pruned", 9.0)
    assert again.next_trials(space, n_jobs=1, n_trials=6) == {3: before[3]}
    rest = again.next_trials(space, n_jobs=4, n_trials=6)
    assert list(rest) == [3, 4, 5] and rest[3] == before[3]
    drawn = [values["a"] for values in [*before.values(), rest[4], rest[5]]]
    assert len(set(drawn)) == 6, "a second launch draws other points than the first"
    for number in rest:
        again.tell(number, "finished", 2.0)
    assert again.next_trials(space, n_jobs=4, n_trials=6) == {}
    assert again.best().number == 0 and again.count("FAIL") == 1


def test_a_point_that_was_half_drawn_is_drawn_to_its_end(tmp_path):
    space, _ = read_space(["a=interval(0, 1)", "b=choice(x, y)"])
    facts = facts_of(tmp_path)
    study = optuna.create_study(study_name=facts["name"], storage=facts["storage"])
    half = study.ask({"a": space["a"]}).params["a"]
    found = Study(facts, RANDOM, seed=0).next_trials(space, n_jobs=1, n_trials=1)
    assert found[0]["a"] == half and found[0]["b"] in "xy"


def test_a_job_reports_each_loss_once_and_is_pruned_by_the_study(tmp_path):
    space, _ = read_space(["a=interval(0, 1)"])
    pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}
    facts = facts_of(tmp_path, pruner)
    study = Study(facts, RANDOM, seed=0)
    study.next_trials(space, n_jobs=2, n_trials=2)
    assert not open_trial(facts, 0).should_prune({0: 9.0, 5: 2.0, 10: 1.0})
    study.tell(0, "finished", 1.0)
    assert not open_trial(facts, 1).should_prune({0: 9.0, 5: 1.5})
    assert open_trial(facts, 1).should_prune({0: 9.0, 5: 1.5, 10: 3.0})
    found = optuna.load_study(study_name=facts["name"], storage=facts["storage"])
    assert [trial.intermediate_values for trial in found.trials] == [
        {5: 2.0, 10: 1.0}, {5: 1.5, 10: 3.0},
    ]  # fmt: skip


GRIDS = [
    {"_target_": "optuna.samplers.BruteForceSampler"},
    {"_target_": "optuna.samplers.GridSampler", "search_space": {"a": [0, 1, 2]}},
]


@pytest.mark.parametrize("sampler", GRIDS)
def test_a_grid_that_is_used_up_ends_the_study_also_for_a_later_launch(sampler, tmp_path):
    space, _ = read_space(["a=int(interval(0, 2))"])
    drawn = []
    for _ in range(2):
        study = Study(facts_of(tmp_path), sampler, seed=0)
        while trials := study.next_trials(space, n_jobs=1, n_trials=9):
            ((number, values),) = trials.items()
            study.tell(number, "finished", float(values["a"]))
            drawn.append(values["a"])
    assert sorted(drawn) == [0, 1, 2] and study.count("COMPLETE") == 3


def test_a_grid_of_numbers_finds_choices_which_are_text(tmp_path):
    space, _ = read_space(["a=choice(1, 2)", "b=choice(x, y)", "c=choice(1e-3, true)"])
    values = {"a": [2], "b": ["x", "y"], "c": [1e-3, True]}
    grid = match_grid({"_target_": "optuna.samplers.GridSampler", "search_space": values}, space)
    study = Study(facts_of(tmp_path), grid, seed=0)
    study.check(space)
    trials = study.next_trials(space, n_jobs=4, n_trials=4)
    assert {tuple(values.values()) for values in trials.values()} <= {
        ("2", b, c) for b in "xy" for c in ("0.001", "True")
    }
