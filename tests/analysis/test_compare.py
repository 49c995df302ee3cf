"""Which run is better, and whether by chance; runs under other conditions are never ranked."""

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmft.analysis.compare.frames import as_frames
from lmft.analysis.compare.paired import LOSS, pair
from lmft.analysis.compare.plots import MOST_CURVES, STEPS, TOKENS, draw_curves
from lmft.analysis.compare.ranking import compare_runs
from lmft.analysis.compare.report import as_markdown, ranking_sentences
from lmft.analysis.compare.run_results import (
    ScoredRun,
    choose_results,
    differing_knobs,
    flatten_groups,
)
from lmft.analysis.compare.seeds import SeedGroup, seed_difference
from lmft.analysis.compare.sentences import selection_sentence, separation_sentences
from lmft.analysis.compare.settings import setting_sentence, settings_table
from lmft.commands.arguments import parse_line
from lmft.commands.compare import main
from lmft.errors import UserError
from lmft.evaluation.bootstrap import Interval, paired_difference, seeds_needed
from lmft.evaluation.result import FEW_DOCUMENTS, telling_interval
from lmft.evaluation.sums import read_sums, sums_path
from lmft.tracker.run_log import read_losses

TINY = ["dataset.block_size=16", "trainer.epochs=2", "model.dropout=0"]
HOSTILE = "<script src=http://evil>|$x$[bold]`"


def words_of(comparison):
    told = [text for ranking in comparison.rankings for text in ranking_sentences(ranking)]
    return " ".join(separation_sentences(comparison) + told)


def parse(path):
    """The page's tags with their attributes, and its text; every tag that opens must close."""
    tags, texts, opened = [], [], []
    void = {"meta", "br"}

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, dict(attributes)))
            if tag not in void:
                opened.append(tag)

        def handle_startendtag(self, tag, attributes):
            tags.append((tag, dict(attributes)))

        def handle_endtag(self, tag):
            assert opened.pop() == tag

        def handle_data(self, data):
            texts.append(data)

    Reader().feed(path.read_text())
    assert not opened
    return tags, "".join(texts)


def run_compare(words):
    main(parse_line(["compare", *words]))


def test_runs_that_differ_in_learning_rate_are_ranked_in_words(fit, store, corpus, capsys):
    overrides = [*corpus, *TINY, *store.overrides, f"dataset.name='{HOSTILE}'"]
    slow = fit(*overrides, "optimizer.lr=1e-5")
    fast = fit(*overrides, "optimizer.lr=1e-2")
    capsys.readouterr()
    run_compare([str(slow), store.run_of(fast).info.run_id, f"tracker.uri={store.uri}"])
    printed = capsys.readouterr().out
    printed = " ".join(printed.replace("•", " ").split())  # the terminal folds lines
    assert "A (optimizer.lr=0.01) is ahead of B (optimizer.lr=1e-05)" in printed
    assert "over the same 8 documents: more than chance" in printed
    assert "which weights are better, not which setting is" in printed
    assert "[bold]" in printed

    tags, text = parse(slow / "compare.html")
    assert "optimizer.lr" in text and "more than chance" in text and HOSTILE in text
    assert sum(tag == "svg" for tag, _ in tags) == 2  # intervals and curves
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    addresses = [a.get(name) for _, a in tags for name in ("src", "href", "xlink:href")]
    assert all(address.startswith("#") for address in addresses if address)
    assert not any(
        "http" in str(value) for _, a in tags for k, value in a.items() if k != "content"
    )
    markdown = (slow / "compare.md").read_text()
    assert "<script" not in markdown.replace("\\<", "") and "optimizer.lr" in markdown
    run_id = store.run_of(slow).info.run_id
    kept = {artifact.path for artifact in store.client.list_artifacts(run_id)}
    assert {"compare.md", "compare.html"} <= kept


def test_runs_that_differ_only_in_seed_have_a_spread(runs_of_module):
    fit, corpus = runs_of_module
    common = [*corpus, *TINY]
    same = [fit(*common, f"seed={seed}") for seed in (0, 1)]
    found = compare_runs(same, None)
    (ranking,) = found.rankings
    assert ranking.knobs == ["seed"]
    (group,) = ranking.seeds
    mean, deviation = np.mean(losses_of(same)), np.std(losses_of(same), ddof=1)
    assert group.mean == pytest.approx(mean) and group.deviation == pytest.approx(deviation)
    (row,) = settings_table(ranking).rows
    assert row[:3] == ["A and B", "2", f"{mean:.4f} ± {deviation:.4f}"]
    assert "A and B are one setting with 2 seeds" in words_of(found)
    assert "is ahead" not in words_of(found) and "more than chance" not in as_markdown(found, [])
    assert "two seeds of one setting" in as_markdown(found, [])

    other = fit(*common, "trainer.schedule=cosine")
    found = compare_runs([*same, other], None)
    assert [len(seeds.runs) for seeds in found.rankings[0].seeds] in ([1, 2], [2, 1])
    assert "has one seed, so over seeds it is not known" in words_of(found)
    slow = [fit(*common, f"seed={seed}", "optimizer.lr=1e-5") for seed in (0, 1)]
    found = compare_runs([*slow, *same], None)
    assert "A and B (optimizer.lr=0.001) are ahead of C and D" in words_of(found)
    assert "other seeds would hardly change the order of settings" in words_of(found)


def losses_of(folders, split="validation"):
    return [json.loads((folder / "result.json").read_text())[split]["loss"] for folder in folders]


def test_the_best_run_is_chosen_by_validation_and_test_is_shown_beside_it(runs_of_module, tmp_path):
    fit, corpus = runs_of_module
    folders = [
        shutil.copytree(fit(*corpus, *TINY, f"optimizer.lr={lr}"), tmp_path / lr)
        for lr in ("1e-3", "1e-2")
    ]
    swap_tests(*folders)  # so that validation and test disagree
    better = folders[int(np.argmin(losses_of(folders)))]
    assert better != folders[int(np.argmin(losses_of(folders, "test")))]
    found = compare_runs(folders, None)
    (ranking,) = found.rankings
    assert ranking.runs[0].folder == better and found.split == "validation"
    page = as_markdown(found, [])
    assert "The best run is chosen by validation; test is shown beside it." in page
    test = json.loads((better / "result.json").read_text())["test"]
    (row,) = [line for line in page.splitlines() if line.startswith("| A | 0.01")]
    assert f"| {test['perplexity']:,.2f} |" in row
    table, _ = as_frames(found)
    assert table.iloc[0]["test_perplexity"] == test["perplexity"]

    asked = compare_runs(folders, "test")
    assert asked.rankings[0].runs[0].folder != better
    assert "ranked by test, as asked; choose the best one by validation" in as_markdown(asked, [])
    drop_validation(folders[0])
    assert "Not all runs have a validation result" in selection_sentence(
        compare_runs(folders, None)
    )


def swap_tests(first, second):
    """Exchange the test results of two runs, and the sums behind them."""
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    results[0]["test"], results[1]["test"] = results[1]["test"], results[0]["test"]
    for folder, result in zip((first, second), results, strict=True):
        (folder / "result.json").write_text(json.dumps(result))
    kept = sums_path(first, results[0]["test"]["fingerprint"], results[0]["test"]["precision"])
    other = second / kept.name
    first_bytes, second_bytes = kept.read_bytes(), other.read_bytes()
    kept.write_bytes(second_bytes)
    other.write_bytes(first_bytes)


def drop_validation(folder):
    """Leave the run with its test result only."""
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"validation": None}))


def test_a_pair_is_the_paired_difference_of_the_same_documents(runs_of_module):
    fit, corpus = runs_of_module
    folders = [fit(*corpus, *TINY, f"optimizer.lr={lr}") for lr in (1e-2, 1e-3)]
    found = compare_runs(folders, "validation")
    (only,) = found.rankings[0].pairs
    sums = [read_sums(run.folder, run.result, "document") for run in (only.better, only.worse)]
    expected = paired_difference(sums[1].nats, sums[0].nats, sums[0].targets)
    assert only.difference == expected
    assert only.difference.mean == pytest.approx(LOSS.of(only.worse) - LOSS.of(only.better))
    assert pair(only.worse, only.better, LOSS).difference.mean == pytest.approx(-expected.mean)


def test_what_was_scored_under_other_conditions_is_not_ranked(runs_of_module):
    fit, corpus = runs_of_module
    common = [*corpus, *TINY]
    causal = fit(*common)
    joined = fit(*common, "dataset.separator=none")
    masked = fit(*common, "objective=mlm", "model=bert_tiny")
    found = compare_runs([causal, joined], None)
    assert [len(ranking.runs) for ranking in found.rankings] == [1, 1] and not found.bytewise
    first, second = (run.conditions["separator"] for run in found.runs)
    assert {first, second} == {"eos", "none"}
    assert "A is not ranked with B" in words_of(found)
    assert f"separator is '{first}' for A; '{second}' for B." in words_of(found)
    assert "is ahead" not in words_of(found)
    found = compare_runs([causal, masked], None)
    assert "Causal and masked models are never ranked together" in words_of(found)
    assert "is ahead" not in words_of(found) and not found.bytewise
    assert "never ranked" in as_markdown(found, [])


def test_bits_per_byte_stand_in_where_every_byte_was_scored(fit, corpus):
    common = [*corpus, *TINY, "trainer.max_steps=2", "evaluation.stride=8"]
    folders = [fit(*common), fit(*common, "model.vocab_size=280")]
    found = compare_runs(folders, None)
    assert len(found.rankings) == 2
    (ranking,) = found.bytewise
    (only,) = ranking.pairs
    assert only.units == 7  # but for the first document, whose first token is not scored
    assert "compared by bits per byte below" in words_of(found)
    assert "is ahead" not in words_of(found)
    assert "bits per byte" in " ".join(ranking_sentences(ranking))


def test_a_prefix_is_a_condition_and_bos_none_for_bits_per_byte(fit, corpus):
    common = [*corpus, *TINY, "trainer.max_steps=2"]
    knobs = ["evaluation.stride=8", "evaluation.prefix=bos", "evaluation.windows=rolling"]
    text = fit(*common, "evaluation.prefix=the")
    found = compare_runs([*(fit(*common, knob) for knob in knobs), text], None)
    assert len(found.rankings) == 4
    (ranking,) = found.bytewise
    assert len(ranking.runs) == 3 and text not in [run.folder for run in ranking.runs]
    assert "prefix is '" in words_of(found) and "windows is '" in words_of(found)


def test_where_an_interval_says_nothing_that_is_said_instead(fit, corpus):
    common = [*corpus, *TINY, "trainer.max_steps=1", "dataset.max_documents=2"]
    common += ["dataset.block_size=8"]  # two blocks of 16 tokens
    folders = [fit(*common, f"seed={seed}") for seed in (0, 1)]
    results = [json.loads((folder / "result.json").read_text())["validation"] for folder in folders]
    for result in results:
        assert result["units"] < FEW_DOCUMENTS
        shown = f"perplexity {result['perplexity']:,.2f} [too few documents for an interval] · "
        assert result["label"].startswith(shown)
    assert results[0]["loss_low"] < results[0]["loss"] < results[0]["loss_high"]  # stay in the file
    page = as_markdown(compare_runs(folders, None), [])
    assert "A and B: too few documents for an interval." in page
    assert "too few documents for an interval" in (folders[0] / "card.md").read_text()
    assert not re.search(r"\d \\\[", page.split("## The runs")[0])


@pytest.mark.parametrize(
    ("low", "high", "units", "tells"),
    [
        (1.0, 2.0, 5, True),
        (1.0, 2.0, 4, False),
        (0.0, 4.0, 20, True),
        (-0.1, 4.0, 20, False),  # a perplexity below 1
        (3.0, 8.0, 20, False),  # 20 to 2,981
        (3.0, math.inf, 20, False),
        (None, None, 1, False),
    ],
)
def test_an_interval_tells_if_its_ends_are_perplexities_of_one_model(low, high, units, tells):
    assert telling_interval(low, high, units) == (Interval(low, high) if tells else None)


def test_the_page_has_each_curve_once_and_at_most_one_run_per_color(runs_of_module):
    fit, corpus = runs_of_module
    folders = [fit(*corpus, *TINY, f"seed={seed}") for seed in (0, 1)]
    folders.append(fit(*corpus, *TINY, "trainer.batch_size=4"))
    for count, axes in ((2, [STEPS]), (3, [STEPS, TOKENS])):  # as many tokens a step, or not
        (ranking,) = compare_runs(folders[:count], None).rankings
        losses = {run.letter: read_losses(run.folder) for run in ranking.runs}
        figure = draw_curves(ranking, losses)
        assert [name for name in (STEPS, TOKENS) if f">{name}<" in figure] == axes
        many = replace(ranking, runs=ranking.runs * MOST_CURVES)
        assert draw_curves(many, losses).count(">A (seed=") <= MOST_CURVES


def test_of_many_runs_each_is_compared_with_the_best_only(runs_of_module, tmp_path):
    fit, corpus = runs_of_module
    run = fit(*corpus, *TINY)
    folders = [shutil.copytree(run, tmp_path / str(number)) for number in range(6)]
    found = compare_runs(folders, None)
    assert len(found.rankings[0].pairs) == 5
    assert "each is compared with the best only" in words_of(found)


def test_a_sweep_and_an_experiment_name_their_finished_runs(fit, store, corpus, tmp_path, capsys):
    common = [*corpus, *TINY, *store.overrides, "trainer.max_steps=2"]
    common.append("tracker.experiment_name=sweep")
    folders = [fit(*common, f"seed={seed}") for seed in (0, 1)]
    experiment = store.client.get_experiment_by_name("sweep").experiment_id
    parent = store.client.create_run(experiment).info.run_id
    for folder in folders:
        store.client.set_tag(store.run_of(folder).info.run_id, "mlflow.parentRunId", parent)
    uri, out = f"tracker.uri={store.uri}", f"out={tmp_path / 'out'}"
    run_compare([parent, uri, out])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.md", "compare.html"}
    assert "compare.html" in {a.path for a in store.client.list_artifacts(parent)}
    store.client.set_terminated(store.run_of(folders[0]).info.run_id, "FAILED")
    with pytest.raises(UserError, match="two runs or more, but has 1"):
        run_compare(["tracker.experiment_name=sweep", uri, out])


def test_a_t_test_of_seeds_is_welchs():
    from scipy.stats import ttest_ind

    better, worse = [1.0, 1.2, 1.1], [1.3, 1.9]
    expected = ttest_ind(worse, better, equal_var=False)
    found = seed_difference(better, worse)
    assert found.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert seed_difference([1.0, 1.0], [1.0, 1.0]).p_value == 1
    assert seed_difference([1.0, 1.0], [1.1, 1.1]).p_value == 0  # the seed has no effect


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "two runs or more"),
        (["empty"], "two runs or more"),
        (["empty", "other"], "holds no finished run"),
        (["nowhere", "empty"], "nowhere is neither a run's folder"),
        (["seeds=3"], "lmft compare has no knob 'seeds'"),
        (["evaluation.split=tset"], "evaluation.split is 'tset'"),
        (["tracker.experiment_name=none"], "tracker.experiment_name is 'none'"),
    ],
)
def test_a_mistake_gets_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=sentence):
        run_compare(words)
    assert not (tmp_path / "mlflow.db").exists()


def test_knobs_differ_where_one_run_has_not_got_them():
    small = {"training": "yes", "seed": 0, "model.config": {"n_layer": 1}}
    plain = {
        "training": "yes",
        "seed": 0,
        "model.config": None,
        "objective.mask_fraction": 0.15,
    }
    scored = {"training": "no", "model.config": None}
    assert differing_knobs([small, plain]) == ["model.config", "objective.mask_fraction"]
    assert differing_knobs([small, scored]) == ["training", "model.config"]
    tree = {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1.0}, "seed": 0}
    assert flatten_groups(tree) == {"optimizer": "AdamW", "optimizer.lr": 1.0, "seed": 0}


def test_results_are_chosen_that_all_runs_share():
    def result(fingerprint, precision):
        return {"fingerprint": fingerprint, "precision": precision}

    first, other, rounded = result("a", "fp32"), result("b", "bf16"), result("a", "bf16")
    assert choose_results([[first], [other, rounded, first]]) == [first, first]
    assert choose_results([[first], [other, rounded]]) == [first, rounded]  # ranked with a note
    assert choose_results([[first], [other]]) == [first, other]  # not ranked


def test_settings_that_do_not_differ_significantly_say_how_many_seeds_would_show_it():
    def seeds(letters, lr, values):
        knobs = {"training": "yes", "optimizer.lr": lr}
        runs = [ScoredRun(Path(), knobs, {}, {}, letter=letter) for letter in letters]
        return SeedGroup(runs, values)

    first, second = seeds("AB", 1, [1.0, 1.4]), seeds("CD", 2, [1.2, 1.5])
    told = setting_sentence(first, second, "nats per token", ["optimizer.lr"])
    needed = seeds_needed(first.values, second.values)
    assert "A and B (optimizer.lr=1) are ahead of C and D (optimizer.lr=2) by 0.1500" in told
    assert f"{needed} seeds per setting would detect it" in told
    assert f"{needed - 2} and {needed - 2} more than there are" in told
    sure = seeds("AB", 1, [1.0, 1.01]), seeds("CD", 2, [1.1, 1.12])
    assert setting_sentence(*sure, "nats", []).endswith(": more than chance over seeds.")
    told = setting_sentence(*sure, "nats", [], 9)  # of many settings
    assert "may be chance among so many tests" in told
