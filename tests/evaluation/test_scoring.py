"""Numbers that can be trusted: what is scored, how it adds up, and that it never moves."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from lmft.config.build import read_config
from lmft.config.schema import EvaluationConfig
from lmft.dataset.splits import open_splits
from lmft.errors import UserError
from lmft.evaluation.scoring import check_evaluation, cut_windows
from lmft.objective import CausalLM, MaskedLM
from lmft.trainer.components import build_components
from lmft.trainer.evaluate import assess, score, windows_of
from tests.conftest import compose


def open_evaluation(*overrides):
    config, values = read_config(compose("hardware=cpu", "hardware.precision=fp32", *overrides))
    splits = open_splits(config.dataset, only=("test",))
    return config, values, splits, build_components(config, splits)


@pytest.fixture
def scored(stories, wikitext, tmp_path):
    """Real weights and 3,000 characters of real text."""
    path = tmp_path / "test.txt"
    path.write_text((wikitext / "test.txt").read_text()[:3000])
    return [
        "model=pretrained", f"model.name={stories}", "dataset=text_files", f"dataset.test={path}",
        "dataset.separator=none", "dataset.block_size=64", f"cache_root={tmp_path}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def masked_run(runs_of_module):
    """The folder of a masked model, hardly trained."""
    fit, corpus = runs_of_module
    return fit(*corpus, "model=bert_tiny", "objective=mlm", "trainer.max_steps=1")


@pytest.fixture
def masked(masked_run, tmp_path):
    """A copy of that folder, to be evaluated."""
    return Path(shutil.copytree(masked_run, tmp_path / "runs" / masked_run.name))


@given(
    tokens=st.integers(2, 300), context=st.integers(2, 50), stride=st.integers(1, 50),
    masked=st.booleans(),
)  # fmt: skip
def test_windows_score_each_token_once_with_enough_before_it(tokens, context, stride, masked):
    stride = context if masked else min(stride, context)
    objective = MaskedLM(0.15) if masked else CausalLM()
    config = EvaluationConfig(None, context, stride, None, 1, False)
    windows = cut_windows(tokens, config, 99, objective)
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


def test_overlap_is_refused_where_it_means_nothing():
    with pytest.raises(UserError, match="evaluation.stride"):
        check_evaluation(EvaluationConfig(None, 8, 9, None, 1, False), 8, CausalLM())
    with pytest.raises(UserError, match="objective=mlm"):
        check_evaluation(EvaluationConfig(None, 8, 4, None, 1, False), 8, MaskedLM(0.15))


def test_nats_are_those_of_a_float64_reference(scored, stories):
    config, _, _, components = open_evaluation(*scored)
    found = score("test", config, components)
    ids = torch.from_numpy(np.array(components.batches["test"].blocks.stream.ids, dtype=np.int64))
    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float64).eval()
    nats = []
    for block in ids.split(64):
        with torch.no_grad():
            logits = model(block[None]).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits, block[1:], reduction="none").tolist()
    assert found.nats == pytest.approx(np.array(nats), rel=1e-4, abs=1e-5)
    assert found.loss.nats == pytest.approx(sum(nats), rel=1e-6)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_how_many_windows_go_together_changes_nothing(objective, scored, masked_run):
    if objective == "mlm":
        scored = [*scored, "objective=mlm", f"model.name={masked_run / 'checkpoint'}"]
    config, _, _, components = open_evaluation(*scored)
    losses = {}
    for size in (1, 3, 8, 1000):
        hardware = replace(components.hardware, micro_batch_size=size)
        losses[size] = score("test", config, replace(components, hardware=hardware))
    for size in (1, 3, 8):
        assert losses[size].loss.mean == pytest.approx(losses[1000].loss.mean, rel=1e-6)
        assert np.array_equal(losses[size].positions, losses[1000].positions)  # the same masks


def test_stride_1_scores_each_token_with_its_whole_context(scored, stories):
    config, _, _, components = open_evaluation(
        *scored, "evaluation.stride=1", "evaluation.context=16", "evaluation.max_blocks=40"
    )
    found = score("test", config, components)
    ids = torch.from_numpy(np.array(components.batches["test"].blocks.stream.ids, dtype=np.int64))
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    assert found.positions.tolist() == list(range(1, 16 + 39))
    for position, nats in zip(found.positions, found.nats, strict=True):
        window = ids[max(0, position - 15) : position + 1]
        with torch.no_grad():
            logits = model(window[None]).logits[0, -2]
        expected = torch.nn.functional.cross_entropy(logits, window[-1])
        assert nats == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("separator", ["none", "eos", "model", '"\\n\\n"'])
@pytest.mark.parametrize("tokenizer", ["stories260k", "gpt2-tokenizer"])
def test_the_bytes_and_words_of_all_tokens_are_those_of_the_text(
    tokenizer, separator, shared, tmp_path
):
    from lmft.dataset.token_stream import open_stream
    from lmft.dataset.tokenizer import load_tokenizer
    from lmft.evaluation.token_bytes import measure_spans

    lines = ["the café — naïve\n", "", "  two  words \n", "🙂 emoji 日本語\n", "end"]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    config, _ = read_config(compose("dataset=text_files", f"dataset.test={path}"))
    split = open_splits(config.dataset)["test"]
    loaded = load_tokenizer(str(shared / "models" / tokenizer), None)
    separator = json.loads(separator) if separator.startswith('"') else separator
    stream = open_stream(split, loaded, separator, tmp_path)
    spans = measure_spans(split, loaded, separator, stream)
    ends = np.concatenate([[0], stream.ends])
    by_document = [int(spans.bytes[a:b].sum()) for a, b in zip(ends, ends[1:], strict=False)]
    assert int(spans.bytes.sum()) == sum(len(line.encode()) for line in lines)
    if separator != "\n\n":  # there a token may reach over the end of a document
        assert by_document == [len(line.encode()) for line in lines]
    assert int(spans.words.sum()) == sum(len(line.split()) for line in lines)


@pytest.mark.parametrize("tokenizer", ["stories260k", "gpt2-tokenizer"])
def test_bytes_and_words_that_are_measured_part_by_part_are_those_of_one_go(
    tokenizer, shared, tmp_path, monkeypatch
):
    from lmft.dataset import chunked_tokenize as pieces
    from lmft.dataset.token_stream import open_stream
    from lmft.dataset.tokenizer import load_tokenizer
    from lmft.evaluation import token_bytes as spans

    path = tmp_path / "test.txt"
    path.write_text("the café — naïve\n\n  two  words 🙂\u2003日本語 " * 50 + "x" * 40)
    config, _ = read_config(compose("dataset=text_files", f"dataset.test={path}"))
    split = open_splits(config.dataset)["test"]
    loaded = load_tokenizer(str(shared / "models" / tokenizer), None)
    stream = open_stream(split, loaded, "none", tmp_path)
    whole = spans.measure_spans(split, loaded, "none", stream)
    assert int(whole.words.sum()) == len(path.read_text().split())
    monkeypatch.setattr(pieces, "STRIDE", 512)
    monkeypatch.setattr(pieces, "OVERLAP", 128)
    for size in (1, 7, 64):
        monkeypatch.setattr(spans, "LOOKED_AT", size)
        parts = spans.measure_spans(split, loaded, "none", stream)
        assert (parts.words == whole.words).all()
        assert (parts.bytes == whole.bytes).all()


def test_wikitext_rows_are_resampled_by_article(wikitext, stories, tmp_path):
    path = tmp_path / "test.parquet"
    path.write_bytes((wikitext / "parquet" / "test.parquet").read_bytes())
    config, _ = read_config(
        compose("dataset=text_files", f"dataset.test={path}", "dataset.document=row")
    )
    split = open_splits(config.dataset)["test"]
    rule = replace(split.source.parts(split.where)[0], rule="article")
    by_row = replace(split, source=Fixed(split.source, rule))
    units = by_row.units()
    assert len(units) == 4358 and units.max() == 59 and (np.diff(units) >= 0).all()


class Fixed:
    """A source whose rows make articles, as those of the hub's WikiText do."""

    def __init__(self, source, part):
        self.source, self.part = source, part

    def parts(self, where):
        return [self.part]

    def digest(self, where):
        return self.source.digest(where)


def test_an_evaluation_of_a_run_is_kept_in_that_run_and_known_the_next_time(
    fit, store, corpus, command
):
    folder = fit(*corpus, *store.overrides, "trainer.max_steps=4", "dataset.block_size=16")
    trained = json.loads((folder / "result.json").read_text())
    line = f"evaluate run={folder} tracker.uri={store.uri}"
    code, first, complaint = command(line)
    assert (code, complaint) == (0, "")
    assert f"{trained['test']['label']}  (known already)" in first
    code, other, complaint = command(f"{line} evaluation.stride=4")
    assert code == 0 and "stride 4" in other and "rests on 6 documents" in complaint
    code, again, complaint = command(f"{line} evaluation.stride=4")
    assert (code, complaint) == (0, "") and "known already" in again
    run = store.run_of(folder)
    assert run.info.status == "FINISHED"
    keys = [key for key in run.data.metrics if key.endswith("/test/bits_per_byte")]
    assert len(keys) == 1 and keys[0].startswith("text_files-")
    by_id, printed, _ = command(f"evaluate run={run.info.run_id} tracker.uri={store.uri}")
    assert by_id == 0 and "known already" in printed


def test_a_model_without_a_run_gets_one_of_its_own(scored, store, command, tmp_path):
    words = " ".join(word for word in scored if "cache_root" not in word)
    line = f"evaluate {words} tracker.uri={store.uri} cache_root={tmp_path}"
    code, printed, complaint = command(line)
    assert code == 0 and "fp32" in printed
    (folder,) = tmp_path.glob("runs/*/evaluations.json")
    run = store.run_of(folder.parent)
    (found,) = json.loads(folder.read_text()).values()
    assert run.data.metrics["test/perplexity"] == pytest.approx(found["perplexity"])
    assert run.data.tags["test/fingerprint"] == found["fingerprint"]


def test_masked_evaluation_in_another_process_is_the_same_to_the_last_digit(masked, tmp_path):
    trained = json.loads((masked / "result.json").read_text())["test"]
    words = [sys.executable, "-m", "lmft", "evaluate", f"run={masked}", "tracker=none"]
    words += ["evaluation.split=test", "hardware.micro_batch_size=8"]
    (masked / "result.json").unlink()  # so that it can't answer from memory
    subprocess.run(words, check=True, cwd=tmp_path, capture_output=True)
    (again,) = json.loads((masked / "evaluations.json").read_text()).values()
    assert again["nats"] == trained["nats"] and again["label"] == trained["label"]


def test_several_draws_of_masks_give_mean_and_spread(masked, command):
    code, _, _ = command(f"evaluate run={masked} tracker=none evaluation.mask_draws=3")
    assert code == 0
    found = list(json.loads((masked / "evaluations.json").read_text()).values())
    (drawn,) = [some for some in found if "mask_draws" in some]
    (once,) = [some for some in found if "mask_draws" not in some] or [None]
    assert drawn["loss_deviation"] > 0
    if once:
        assert drawn["targets"] == 3 * once["targets"]


def test_frozen_masks_are_the_ones_they_always_were(masked_run, corpus, tmp_path):
    overrides = [*corpus, "model=bert_tiny", "objective=mlm", f"cache_root={tmp_path / 'cache'}"]
    overrides += [f"model.name={masked_run / 'checkpoint'}", "model.from_scratch=false"]
    overrides += ["model.tokenizer=null", "model.architecture=null"]
    config, values, splits, components = open_evaluation(*overrides)
    found = score("test", config, components)
    assert len(windows_of("test", config, components)) == 1
    masks = hashlib.sha256(found.positions.astype("<i8").tobytes()).hexdigest()
    assert masks[:16] == "b49ad5699f35c225"
    result = assess(splits["test"], found, config, values, components).result
    assert "15% hidden" in result.label


def test_pseudo_perplexity_hides_each_token_once_alone(masked, corpus, command, tmp_path):
    code, printed, _ = command(f"evaluate run={masked} tracker=none evaluation.pseudo=true")
    assert code == 0 and "hidden alone" in printed
    (found,) = json.loads((masked / "evaluations.json").read_text()).values()
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(masked / "checkpoint")
    model = AutoModelForMaskedLM.from_pretrained(masked / "checkpoint").eval()
    text = (tmp_path / "test.txt").read_text().splitlines(keepends=True)
    end = tokenizer.eos_token_id
    ids = [
        i for line in text for i in [*tokenizer(line, add_special_tokens=False)["input_ids"], end]
    ]
    block = torch.tensor(ids[:-1])
    nats = []
    for place in range(len(block)):
        if int(block[place]) not in tokenizer.all_special_ids:
            hidden = block.clone()
            hidden[place] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(hidden[None]).logits[0, place]
            nats.append(float(torch.nn.functional.cross_entropy(logits, block[place])))
    assert found["targets"] == len(nats)
    assert found["nats"] == pytest.approx(sum(nats), rel=1e-5)


def test_what_a_tokenizer_does_not_keep_is_told(minilm, tmp_path):
    from lmft.dataset.tokenizer import load_tokenizer, train_tokenizer
    from lmft.evaluation.token_bytes import lost_characters

    path = tmp_path / "test.txt"
    path.write_text("ABCdefghij é")
    config, _ = read_config(compose("dataset=text_files", f"dataset.test={path}"))
    split = open_splits(config.dataset)["test"]
    assert lost_characters(split, train_tokenizer(iter(["abc"]), 300)) == 0
    assert lost_characters(split, load_tokenizer(str(minilm), None)) == pytest.approx(4 / 11)
