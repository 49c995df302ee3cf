"""Intervals, paired differences and spreads: 95 % of intervals hold the mean."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmft.evaluation.bootstrap import (
    Interval,
    bootstrap_interval,
    paired_difference,
    seeds_needed,
)

MEAN = 3.0  # nats per target, of every population here
STUDENT = {
    1: 12.7062,
    2: 4.30265,
    3: 3.18245,
    32: 2.03693,
}  # 97.5 % points of t, from a textbook's table
GAMMA, NEGATIVE_BINOMIAL = (2, 1000), (2000, 2_002_000)  # shape, scale; mean, variance


def equal_blocks(random, documents):
    """Blocks of 512 targets whose loss varies by a tenth."""
    targets = np.full(documents, 512)
    return targets * random.normal(MEAN, 0.3, documents), targets


def documents_of_any_length(random, documents, by_length=0.0):
    """Gamma lengths, a lognormal loss each, that rises by `by_length` per mean length."""
    targets = random.poisson(random.gamma(*GAMMA, documents)) + 1
    length, variance = NEGATIVE_BINOMIAL[0] + 1, NEGATIVE_BINOMIAL[1]
    known = 1 + by_length * variance / length**2  # E[targets * trend] / E[targets]
    trend = (1 + by_length * (targets - length) / length) / known
    return targets * MEAN * trend * np.exp(random.normal(-(0.25**2) / 2, 0.25, documents)), targets


def easier_when_long(random, documents):
    return documents_of_any_length(random, documents, by_length=-0.1)


POPULATIONS = [equal_blocks, documents_of_any_length, easier_when_long]


def coverage(population, repetitions, draws):
    """Per cent of repetitions, of 20 to 60 documents each, whose interval holds the known mean."""
    held = 0
    for repetition in range(repetitions):
        random = np.random.default_rng(repetition)
        nats, targets = population(random, random.integers(20, 61))
        seed = random.integers(2**32)  # another seed than the documents'
        interval = bootstrap_interval(nats, targets, seed=seed, draws=draws)
        held += interval.low <= MEAN <= interval.high
    return 100 * held / repetitions


def rejections(noise, repetitions, draws):
    """Per cent of repetitions in which two runs of equal expected loss differ significantly."""
    rejected = 0
    for repetition in range(repetitions):
        random = np.random.default_rng(repetition)
        nats, targets = documents_of_any_length(random, random.integers(20, 61))
        a, b = (nats * (1 + 0.02 * noise(random, len(nats))) for _ in "ab")
        seed = random.integers(2**32)
        rejected += paired_difference(a, b, targets, seed=seed, draws=draws).p_value <= 0.05
    return 100 * rejected / repetitions


def normal(random, documents):
    return random.normal(size=documents)


def heavy_tailed(random, documents):
    return random.standard_t(4, documents)


@pytest.mark.parametrize("population", POPULATIONS)
def test_of_200_intervals_95_percent_hold_the_mean_give_or_take_4(population):
    assert coverage(population, 200, draws=2_000) == pytest.approx(95, abs=4)


@pytest.mark.soak
@pytest.mark.parametrize("population", POPULATIONS)
def test_of_1000_intervals_95_percent_hold_the_mean_give_or_take_2(population):
    assert coverage(population, 1_000, draws=10_000) == pytest.approx(95, abs=2)


@pytest.mark.parametrize("noise", [normal, heavy_tailed])
def test_of_200_pairs_of_equal_runs_5_percent_differ_significantly_give_or_take_4(noise):
    assert rejections(noise, 200, draws=2_000) == pytest.approx(5, abs=4)


@pytest.mark.soak
@pytest.mark.parametrize("noise", [normal, heavy_tailed])
def test_of_1000_pairs_of_equal_runs_5_percent_differ_significantly_give_or_take_2(noise):
    assert rejections(noise, 1_000, draws=10_000) == pytest.approx(5, abs=2)


def test_the_interval_is_what_a_loop_over_drawn_documents_gives():
    """Efron & Tibshirani's recipe, one resample after the other."""
    nats, targets = documents_of_any_length(np.random.default_rng(0), 8)

    def ratio_and_error(chosen):
        y, n = nats[chosen], targets[chosen]
        ratio = y.sum() / n.sum()
        return ratio, np.sqrt(8 / 7 * np.sum((y - ratio * n) ** 2)) / n.sum()

    everyone = np.arange(8)
    mean, _ = ratio_and_error(everyone)
    moved = [ratio_and_error(np.delete(everyone, i))[0] - mean for i in everyone]
    error = np.sqrt(7 / 8 * np.sum(np.square(moved)))  # jackknife
    ts = []
    for chosen in np.random.default_rng(5).integers(8, size=(199, 8)):
        drawn_mean, drawn_error = ratio_and_error(chosen)
        ts.append(abs(drawn_mean - mean) / drawn_error)
    half_width = sorted(ts)[190 - 1] * error  # the 190th of 199: 0.95 of 199 + 1
    interval = bootstrap_interval(nats, targets, seed=5, draws=199)
    assert (interval.low, interval.high) == pytest.approx((mean - half_width, mean + half_width))


@st.composite
def scored(draw, fewest=2, most=12):
    """nats (D,) and targets (D,) of documents; losses may be alike, but not all but alike."""
    count = draw(st.integers(fewest, most))
    targets = draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    cents = draw(st.lists(st.integers(1, 1200), min_size=count, max_size=count))
    return np.array(cents) / 100 * np.array(targets), np.array(targets)


briefly = settings(max_examples=50, deadline=None)
interval_of = partial(bootstrap_interval, draws=200)
difference_of = partial(paired_difference, draws=200)


def mean_of(interval):
    return (interval.low + interval.high) / 2


@briefly
@given(scored(), st.integers(0, 2**32))
def test_the_mean_is_in_its_interval_and_the_same_seed_gives_the_same_interval(documents, seed):
    nats, targets = documents
    interval = interval_of(nats, targets, seed=seed)
    assert interval == interval_of(nats, targets, seed=seed)
    mean = nats.sum() / targets.sum()
    assert interval.low <= mean * (1 + 1e-12) and mean * (1 - 1e-12) <= interval.high


def test_another_seed_gives_another_interval():
    nats, targets = documents_of_any_length(np.random.default_rng(0), 30)
    assert interval_of(nats, targets, seed=0) != interval_of(nats, targets, seed=1)


@briefly
@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_documents_does_not_move_the_mean(documents, random):
    nats, targets = documents
    order = random.sample(range(len(nats)), len(nats))
    difference = difference_of(nats, np.zeros_like(nats), targets)
    shuffled = difference_of(nats[order], np.zeros_like(nats), targets[order])
    assert shuffled.mean == difference.mean


@briefly
@given(scored(), st.integers(-20, 20))
def test_nats_in_another_unit_give_the_interval_in_that_unit(documents, exponent):
    nats, targets = documents
    interval = interval_of(nats, targets)
    scaled = interval_of(nats * 2.0**exponent, targets)
    assert scaled == Interval(interval.low * 2.0**exponent, interval.high * 2.0**exponent)


@briefly
@given(scored(fewest=5), st.integers(1, 5))
def test_a_nat_more_on_every_target_moves_the_interval_by_a_nat(documents, nat):
    nats, targets = documents
    assume(np.ptp(nats / targets) > 0.01)
    interval, moved = interval_of(nats, targets), interval_of(nats + nat * targets, targets)
    expected = (interval.low + nat, interval.high + nat)
    assert (moved.low, moved.high) == pytest.approx(expected, rel=1e-6)


@briefly
@given(st.floats(0.001, 12), st.lists(st.integers(1, 10_000), min_size=2, max_size=30))
def test_documents_that_all_have_one_loss_have_an_interval_of_no_width(loss, targets):
    interval = interval_of(loss * np.array(targets), np.array(targets))
    assert interval.low == interval.high == pytest.approx(loss)


def test_each_document_four_times_halves_the_interval():
    nats, targets = documents_of_any_length(np.random.default_rng(0), 500)
    once = bootstrap_interval(nats, targets)
    four_times = bootstrap_interval(np.tile(nats, 4), np.tile(targets, 4))
    assert mean_of(four_times) == pytest.approx(mean_of(once))
    halved = (once.high - once.low) / 2
    assert four_times.high - four_times.low == pytest.approx(halved, rel=0.05)


@briefly
@given(scored(fewest=5), st.integers(0, 5))
def test_documents_without_a_scored_token_change_nothing(documents, empty):
    nats, targets = documents
    nothing = np.zeros(empty, dtype=int)
    padded = interval_of(np.append(nats, nothing), np.append(targets, nothing))
    assert padded == interval_of(nats, targets)


def test_an_interval_of_a_higher_level_is_wider():
    nats, targets = documents_of_any_length(np.random.default_rng(0), 30)
    widths = [
        interval.high - interval.low
        for interval in (bootstrap_interval(nats, targets, level=x) for x in (0.5, 0.9, 0.95, 0.99))
    ]
    assert widths == sorted(widths) and len(set(widths)) == 4


@briefly
@given(scored(fewest=2, most=3))
def test_two_or_three_documents_have_the_interval_of_students_t(documents):
    nats, targets = documents
    everyone, mean = np.arange(len(nats)), nats.sum() / targets.sum()
    moved = [np.delete(nats, i).sum() / np.delete(targets, i).sum() - mean for i in everyone]
    error = np.sqrt((len(nats) - 1) / len(nats) * np.sum(np.square(moved)))
    half_width = STUDENT[len(nats) - 1] * error
    interval, known = interval_of(nats, targets), (mean - half_width, mean + half_width)
    close = pytest.approx(known, rel=1e-4, abs=1e-4 * half_width + 1e-9)
    assert (interval.low, interval.high) == close


def test_more_documents_than_are_resampled_get_the_interval_they_would_have():
    nats, targets = documents_of_any_length(np.random.default_rng(0), 10_001)
    more = bootstrap_interval(nats, targets)
    fewer = bootstrap_interval(nats[1:], targets[1:], draws=2_000)
    assert more == bootstrap_interval(nats, targets, seed=1)  # nothing is drawn at random
    assert more.high - more.low == pytest.approx(fewer.high - fewer.low, rel=0.05)


@briefly
@given(scored(), st.data())
def test_a_less_b_is_b_less_a_negated_at_the_same_p(documents, data):
    a, targets = documents
    b = np.array([data.draw(st.floats(0.001, 12_000)) for _ in a])
    one, other = difference_of(a, b, targets), difference_of(b, a, targets)
    assert other.mean == -one.mean and other.p_value == one.p_value
    assert other.interval == Interval(-one.interval.high, -one.interval.low)


@briefly
@given(scored(), st.data())
def test_an_interval_leaves_out_zero_just_where_p_is_at_most_5_percent(documents, data):
    a, targets = documents
    b = a * np.array([data.draw(st.floats(0.8, 1.1)) for _ in a])
    difference = difference_of(a, b, targets)
    low, high = difference.interval.low, difference.interval.high
    assert 0 <= difference.p_value <= 1
    assume(min(abs(low), abs(high)) > 1e-12 * (high - low))  # not a tie
    assert (low > 0 or high < 0) == (difference.p_value <= 0.05)


@briefly
@given(scored())
def test_a_run_does_not_differ_from_itself(documents):
    nats, targets = documents
    difference = difference_of(nats, nats, targets)
    assert (difference.mean, difference.p_value) == (0, 1)
    assert difference.interval == Interval(0, 0)


def test_pairing_finds_a_difference_that_overlapping_intervals_hide():
    random = np.random.default_rng(0)
    a, targets = documents_of_any_length(random, 40)
    b = a * (1.02 + 0.01 * normal(random, 40))
    assert interval_of(a, targets).high > interval_of(b, targets).low
    difference = paired_difference(a, b, targets)
    assert difference.interval.high < 0 and difference.p_value < 0.001
    assert difference.mean == pytest.approx((a.sum() - b.sum()) / targets.sum())


def test_a_few_documents_that_differ_among_many_that_do_not_prove_little():
    """Contexts of 512 and 1024 score all but the longest documents alike."""
    a, b, targets = np.zeros(60), np.zeros(60), np.full(60, 100)
    a[:2] = 5.0, 6.0
    difference = paired_difference(a, b, targets)
    assert difference.interval.low < 0 < difference.interval.high < 1
    assert difference.p_value > 0.05


@pytest.mark.parametrize(
    ("nats", "targets", "wrong"),
    [
        ([3.0], [1], "needs 2 scored documents; score more, or pass blocks"),
        ([3.0, 0.0], [1, 0], "needs 2 scored documents"),
        ([3.0, 1.0], [0, 0], "needs 2 scored documents"),
        ([3.0, 1.0], [5, 0], "needs 2 scored documents"),
        ([], [], "needs 2 scored documents"),
        ([3.0, 1.0], [1, 1, 1], "finite nats"),
        ([3.0, np.nan], [1, 1], "finite nats"),
        ([3.0, 1.0], [1, -1], "0 or more targets"),
    ],
)
def test_what_has_no_interval_is_refused_with_the_way_out(nats, targets, wrong):
    with pytest.raises(ValueError, match=wrong):
        bootstrap_interval(np.array(nats), np.array(targets))


def test_too_few_draws_for_a_level_are_refused():
    nats, targets = documents_of_any_length(np.random.default_rng(0), 10)
    bootstrap_interval(nats, targets, draws=19)
    with pytest.raises(ValueError, match="draws=18 is too few for level=0.95"):
        bootstrap_interval(nats, targets, draws=18)
    with pytest.raises(ValueError, match="level=95"):
        bootstrap_interval(nats, targets, level=95)


def test_runs_on_other_documents_are_not_paired():
    with pytest.raises(ValueError, match="a has 3 documents, b 2"):
        paired_difference(np.ones(3), np.ones(2), np.ones(3, dtype=int))


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_those_of_the_published_tables(effect, seeds):
    """Cohen 1988, table 2.4.1: d at 80 % power, two-sided 0.05."""
    one_deviation = np.array([-1.0, 1.0]) / np.sqrt(2)
    assert seeds_needed(one_deviation, one_deviation + effect) == seeds


def test_as_many_seeds_as_needed_find_a_difference_in_80_percent_of_cases():
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (4_000, 17)), random.normal(1, 1, (4_000, 17))
    pooled = (a.var(axis=1, ddof=1) + b.var(axis=1, ddof=1)) / 2
    t = (b.mean(axis=1) - a.mean(axis=1)) / np.sqrt(pooled * 2 / 17)
    assert np.mean(np.abs(t) >= STUDENT[32]) == pytest.approx(0.8, abs=0.02)


@briefly
@given(st.lists(st.floats(1, 9), min_size=3, max_size=6), st.floats(0.01, 3))
def test_a_larger_difference_needs_no_more_seeds(values, difference):
    assume(np.ptp(values) > 1e-6)
    values = np.array(values)
    less, more = (seeds_needed(values, values + x) for x in (difference, 2 * difference))
    assert more is None and less is None or more <= (less or 1_000)
    assert seeds_needed(values + difference, values) == less


def test_a_difference_without_noise_needs_two_seeds_and_no_difference_has_no_number():
    assert seeds_needed([3.0, 3.0], [2.9, 2.9]) == 2
    assert seeds_needed([3.0, 3.1], [3.0, 3.1]) is None
    assert seeds_needed([0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]) is None
    assert seeds_needed([3.0], [3.1, 3.3]) is not None
    with pytest.raises(ValueError, match="run one of them with another seed"):
        seeds_needed([3.0], [3.1])
