"""Labels and fingerprints: two results that are not comparable never look alike."""

from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from lmft.config.knob_metadata import Decides
from lmft.config.schema import decides
from lmft.config.training_knobs import EvaluationConfig
from lmft.evaluation.result import Conditions, Result
from lmft.metrics import TokenLoss
from lmft.runs.run import Run
from lmft.trainer.evaluate import describe_part, find_conditions
from lmft.trainer.run_tokenizer import find_tokenizer
from tests.helpers.runs import compose

OTHER_VALUES = {
    "split": ["validation"],
    "context": [32, 16],
    "stride": [8, 4],
    "prefix": ["bos", "none of it", "BOS, as a text"],
    "windows": ["rolling"],
    "max_blocks": [50, 51],
    "mask_draws": [3, 4],
    "pseudo": [True],
}
CLM = {"dataset.max_documents": [4, 5], "dataset.separator": ["none", "model"]}
MLM = {"objective.mask_fraction": [0.152, 0.154]}


@pytest.fixture(scope="module")
def result_of(runs_of_module, masked_run):
    """A function that returns label and fingerprint by objective and knobs."""
    words = [*runs_of_module[1], "model=pretrained", f"model.name={masked_run / 'checkpoint'}"]
    composed = {name: compose(*words, f"objective={name}") for name in ("clm", "mlm")}
    tokenizer = find_tokenizer(Run(composed["clm"]).config, {})

    def find(objective, **knobs):
        changed = composed[objective].copy()
        for name, value in knobs.items():
            OmegaConf.update(changed, name, value)
        run = Run(changed)
        split = run.splits[run.config.evaluation.split or "test"]
        draws = run.config.evaluation.mask_draws
        conditions = find_conditions(run, split, tokenizer, draws)
        result = Result(
            TokenLoss(30.0, 10), None, None, None, run.config.objective.unit_label, "block", 2,
            conditions, "notes", describe_part(split), "fp32", 0.0,
        )  # fmt: skip
        return result.label, conditions.fingerprint

    return find


def test_each_knob_that_changes_the_fingerprint_changes_the_label(result_of):
    counted = (Decides.numbers, Decides.scoring)
    names = [knob.name for knob in fields(EvaluationConfig)]
    assert set(OTHER_VALUES) == {n for n in names if decides(f"evaluation.{n}") in counted}
    masked = {f"evaluation.{name}": OTHER_VALUES[name] for name in ("mask_draws", "pseudo")}
    causal = {f"evaluation.{name}": values for name, values in OTHER_VALUES.items()}
    causal = {name: values for name, values in causal.items() if name not in masked}
    for objective, knobs in {"clm": causal | CLM, "mlm": masked | MLM}.items():
        results = [result_of(objective)]
        for name, values in knobs.items():
            results += [result_of(objective, **{name: value}) for value in values]
        labels, fingerprints = zip(*results, strict=True)
        assert len(set(fingerprints)) == len(set(labels)) == len(results), labels


def test_the_fingerprint_of_what_an_older_commit_scored_stays():
    objective = {"_target_": "lmft.objective.MaskedLM", "mask_fraction": 0.15}
    older = ("corpus", "test", "tokenizer", 128, 64, "eos", objective, 3, 50)
    assert Conditions(*older, "none", "strided").fingerprint == (
        "c2a94decb85989fce36cb453b4e99c63f9151c949ebd0d0dc472953158967f05"  # as 9eefe07 has it
    )


def test_labels_of_default_evaluations_stay(result_of):
    assert result_of("clm")[0] == (
        "perplexity 20.09 [too few documents for an interval] · per token · notes test · context "
        "128 · stride 128 · eos between documents · fp32 · 10 targets"
    )
    knobs = {"evaluation.max_blocks": 50, "evaluation.mask_draws": 3}
    masked, _ = result_of("mlm", **knobs)
    assert " · per hidden token, 15% hidden, 3 draws · notes test · first 50 blocks · " in masked


def test_a_separator_is_the_same_however_its_line_ends_are_written(result_of):
    typed, real = (
        result_of("clm", **{"dataset.separator": text}) for text in ("a\\n\\tb", "a\n\tb")
    )
    assert typed == real
