"""Windows: which tokens are scored, and what the model reads before each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from lmft.config.training_knobs import EvaluationConfig, WindowRule
from lmft.dataset.token_stream import TokenStream
from lmft.errors import UserError
from lmft.evaluation.windows import check_evaluation, cut_windows, find_prefix
from lmft.objective import CausalLM, MaskedLM
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.evaluate import assess
from lmft.trainer.run_tokenizer import find_tokenizer
from tests.helpers.runs import compose
from tests.helpers.training import score_split

CONFIG = EvaluationConfig(
    split=None, context=8, stride=None, prefix="none", windows=WindowRule.strided,
    max_blocks=None, mask_draws=1, pseudo=False,
)  # fmt: skip
PREFIX = [1001, 1002, 1003]


def open_test(*overrides):
    run = Run(compose("hardware=cpu", "hardware.precision=fp32", *overrides))
    return run, build_components(run.config, {"test": run.splits["test"]})


@given(
    tokens=st.integers(2, 300), context=st.integers(2, 50), stride=st.integers(1, 50),
    masked=st.booleans(),
)  # fmt: skip
def test_windows_score_each_token_once_with_enough_before_it(tokens, context, stride, masked):
    stride = context if masked else min(stride, context)
    objective = MaskedLM(0.15) if masked else CausalLM()
    config = replace(CONFIG, context=context, stride=stride)
    windows = cut_windows(tokens, config, 99, objective, [])
    found = []
    for start, end, scored in zip(windows.starts, windows.ends, windows.scored, strict=True):
        assert end - start <= context
        positions = range(max(scored, start + objective.target_shift), end)
        found += positions
        if start and stride < context:
            assert min(positions) - start >= context - stride
    unscored = set(range(tokens)) - set(found)
    assert len(found) == len(set(found))
    if masked:
        assert not unscored
    else:
        assert unscored == ({0} if stride < context else set(range(0, tokens, context)))


@given(
    bits=st.lists(st.booleans(), min_size=2, max_size=200), context=st.integers(4, 20),
    stride=st.integers(1, 20), prefix=st.integers(0, 3), windows=st.sampled_from(WindowRule),
)  # fmt: skip
def test_windows_without_a_learnt_token_are_left_out(bits, context, stride, prefix, windows):
    stride = min(stride, context - prefix)
    config = replace(CONFIG, context=context, stride=stride, windows=windows)
    learnt = np.array(bits)

    def cut(bits):
        found = cut_windows(len(learnt), config, 99, CausalLM(), PREFIX[:prefix], bits)
        rows = zip(found.starts, found.ends, found.scored, found.before, strict=True)
        # The first token of a window is a target only if something is before it.
        return [(max(scored, s + (before == 0)), end) for s, end, scored, before in rows]

    assert cut(learnt) == [(first, end) for first, end in cut(None) if learnt[first:end].any()]


@given(
    tokens=st.integers(1, 300), context=st.integers(4, 50), stride=st.integers(1, 50),
    prefix=st.integers(1, 3), rule=st.sampled_from(WindowRule),
)  # fmt: skip
def test_with_a_prefix_every_token_is_scored_once(tokens, context, stride, prefix, rule):
    stride = min(stride, context - prefix)
    config = replace(CONFIG, context=context, stride=stride, windows=rule)
    windows = cut_windows(tokens, config, 99, CausalLM(), PREFIX[:prefix])
    assert np.concatenate(list(map(np.arange, windows.scored, windows.ends))).tolist() == list(
        range(tokens)
    )
    stream = TokenStream(np.arange(tokens), np.array([tokens]), "")
    for number in range(len(windows)):
        row = windows.read(stream, np.array([number]))[0].tolist()
        assert len(row) == windows.lengths[number] <= context + (rule is WindowRule.rolling)
        if rule is WindowRule.strided or number == 0:
            assert row[:prefix] == PREFIX[:prefix]
        if number and len(row) > windows.ends[number] - windows.scored[number]:
            assert row[-1] == windows.ends[number] - 1


def harness_windows(tokens, prefix, longest, context_length):
    """The inputs and targets of get_rolling_token_windows of lm-evaluation-harness 0.4.13."""
    done = min(longest, len(tokens))
    yield [prefix, *tokens[: done - 1]], tokens[:done]
    while done < len(tokens):
        size = min(len(tokens) - done, longest - context_length + 1)
        end = done + size
        yield tokens[end - longest - 1 : end - 1], tokens[done:end]
        done = end


@given(tokens=st.integers(1, 300), context=st.integers(1, 50), stride=st.integers(1, 50))
def test_rolling_windows_are_those_of_the_harness(tokens, context, stride):
    stride = min(stride, context)
    config = replace(CONFIG, context=context, stride=stride, windows=WindowRule.rolling)
    windows = cut_windows(tokens, config, 99, CausalLM(), PREFIX[:1])
    stream = TokenStream(np.arange(tokens), np.array([tokens]), "")
    expected = list(harness_windows(list(range(tokens)), PREFIX[0], context, context - stride + 1))
    assert len(windows) == len(expected)
    for number, (inputs, targets) in enumerate(expected):
        row = windows.read(stream, np.array([number]))[0].tolist()
        assert row == [*inputs, targets[-1]] and not windows.reads_last
        assert list(range(windows.scored[number], windows.ends[number])) == targets


# HFLM(pretrained=MODEL, device="cpu", dtype="float32", batch_size=1, max_length=CONTEXT,
# add_bos_token=False).loglikelihood_rolling of lm-evaluation-harness 0.4.13 (torch 2.13.0,
# transformers 5.23.0), for the first so many characters of wiki.test.raw as one request:
# (model, CONTEXT, characters).
HARNESS = {
    ("stories", 128, 6000): -18436.725494384766,
    ("stories", 512, 6000): -18485.712890625,  # the model's whole context
    ("smollm2", 128, 1200): -1105.4359283447266,
}


@pytest.mark.parametrize(("model", "context", "characters"), HARNESS)
def test_rolling_windows_after_bos_give_the_harness_s_likelihood(
    model, context, characters, request, shared, tmp_path
):
    path = tmp_path / "test.txt"
    raw = shared / "data" / "wikitext-2-raw" / "wiki.test.raw"
    path.write_text(raw.read_text()[:characters])
    words = f"""model=pretrained model.name={request.getfixturevalue(model)} dataset=text_files
        dataset.test={path} dataset.document=file dataset.separator=none cache_root={tmp_path}
        dataset.block_size={context} evaluation.prefix=bos evaluation.windows=rolling"""
    run, components = open_test(*words.split())
    scores = score_split(run, components)
    assert -scores.loss.nats == pytest.approx(HARNESS[model, context, characters], rel=1e-7)
    result = assess(run, components, run.splits["test"], scores).result
    assert "rolling windows · after BOS" in result.label
    assert result.bytes == path.stat().st_size


@pytest.mark.parametrize("prefix", ["bos", "Once upon a time"])
def test_a_prefix_is_read_before_each_window_and_not_scored(prefix, scored, stories):
    run, components = open_test(
        *scored, f"evaluation.prefix={prefix}", "evaluation.context=32", "evaluation.stride=16"
    )
    found = score_split(run, components)
    ids = torch.from_numpy(np.array(components.batches["test"].blocks.stream.ids, dtype=np.int64))
    before = torch.tensor(find_prefix(prefix, components.tokenizer))
    room = 32 - len(before)
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    expected, done = [], 0
    while done < len(ids):
        start = len(expected) and len(expected) - room + 16
        window = torch.cat([before, ids[start : start + room]])
        with torch.no_grad():
            logits = model(window[None]).logits[0, :-1]
        nats = torch.nn.functional.cross_entropy(logits, window[1:], reduction="none")
        expected += nats[len(before) - 1 + done - start :].tolist()
        done = start + room
    assert found.positions.tolist() == list(range(len(ids)))
    assert found.nats == pytest.approx(np.array(expected), rel=1e-4, abs=1e-5)


CAUSAL, MASKED = CausalLM(), MaskedLM(0.15)


@pytest.mark.parametrize(
    ("changes", "objective", "message"),
    [
        ({"stride": 9}, CAUSAL, "evaluation.stride is 9, but windows are only 8 tokens long; "),
        ({"stride": 8, "prefix": "bos"}, CAUSAL, "only 7 tokens long after evaluation.prefix"),
        ({"stride": 9, "windows": WindowRule.rolling}, CAUSAL, "only 8 tokens long; lower it"),
        ({"prefix": "Once " * 8}, CAUSAL, "shorten it, or raise evaluation.context"),
        ({"pseudo": True}, CAUSAL, "evaluation.pseudo is for objective=mlm"),
        ({"stride": 9}, MASKED, "evaluation.stride is 9, but windows are only 8 tokens long; "),
        ({"stride": 4}, MASKED, "the windows of objective=mlm can't overlap"),
        ({"prefix": "bos"}, MASKED, "set dataset.separator=model"),
        ({"windows": WindowRule.rolling}, MASKED, "evaluation.windows is rolling"),
    ],
)
def test_windows_that_mean_nothing_are_refused(changes, objective, message, stories):
    tokenizer = find_tokenizer(compose_model(stories), {})
    with pytest.raises(UserError, match=message):
        check_evaluation(replace(CONFIG, **changes), 8, objective, tokenizer)


def test_bos_is_refused_where_the_tokenizer_has_none(stories):
    tokenizer = find_tokenizer(compose_model(stories), {})
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="evaluation.prefix is 'bos', but .* no bos token; set"):
        find_prefix("bos", tokenizer)


def test_a_word_like_bos_is_no_text():
    with pytest.raises(UserError, match="evaluation.prefix is 'BOS', .* did you mean bos?"):
        replace(CONFIG, prefix="BOS")


def compose_model(folder):
    return Run(compose("model=pretrained", f"model.name={folder}")).config
