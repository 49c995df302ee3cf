"""`lmft profile`: the time of a step is reported in full, each part once, and nothing is kept."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lmft.analysis.profiling.measure import PROFILED, WARM_UP, measure
from lmft.analysis.profiling.operators import (
    FAMILIES,
    PHASES,
    PYTHON,
    STEP,
    find_family,
    find_operator_calls,
    find_phases,
    time_shares,
)
from lmft.analysis.profiling.summary import advise
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.training import start_training
from tests.helpers.runs import compose

TINY = ["dataset.block_size=16", "trainer.batch_size=4", "hardware=cpu", "hardware.precision=fp32"]


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_every_operation_has_a_family_and_a_phase_and_the_shares_add_up(
    objective, corpus, tmp_path
):
    model = {"clm": "gpt2_tiny", "mlm": "bert_tiny"}[objective]
    groups = [f"objective={objective}", f"model={model}", "hardware.micro_batch_size=2"]
    run = Run(compose(*corpus, *TINY, *groups, f"cache_root={tmp_path}"))
    components = build_components(run.config, {"train": run.splits["train"]})
    measured = measure(start_training(run.config, components), 2)
    assert [step.number for step in measured.steps] == [WARM_UP + 1, WARM_UP + 2]
    assert measured.memory == measured.host_memory > 0 and measured.launches == 0
    operations = measured.calls
    families, phases = time_shares(operations, "family"), time_shares(operations, "phase")
    assert sum(families.values()) == pytest.approx(1) == sum(phases.values())
    assert families.keys() <= FAMILIES.keys() and phases.keys() == set(PHASES)
    expected = {"matrix products", "attention", "dropout", "loss", "norms", "embeddings", PYTHON}
    assert expected <= families.keys()
    others = sorted(one.seconds for one in operations if one.family == "other")
    short = others[: len(others) * 9 // 10]  # the process may have waited for a core in a long one
    assert sum(short) < 0.5 * sum(one.seconds for one in operations)
    assert [one.name for one in operations].count(PYTHON) == PROFILED
    assert 1 <= len(advise(families, 0.0, run.config, components.hardware)) <= 2


def test_no_time_of_a_step_is_lost_or_counted_twice():
    weight = torch.ones(200, 200, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        torch.ones(300, 300) @ torch.ones(300, 300)  # of no step
        for _ in range(2):
            with record_function(STEP):
                (weight @ weight).softmax(dim=-1).sum().backward()
    events = watched.events()
    whole = sum(event.cpu_time_total for event in events if event.name == STEP)
    operations = find_operator_calls(events, on_device=False)
    assert 1e6 * sum(one.seconds for one in operations) == pytest.approx(whole)


def test_phases_follow_each_other_through_every_micro_batch():
    micro = ["aten::embedding", "aten::addmm", "LinearCrossEntropy", "aten::ones_like"]
    micro += ["autograd::engine::evaluate_function: AddmmBackward0"] * 2
    end = ["aten::linalg_vector_norm", "Optimizer.step", "aten::empty"]
    found = find_phases(["lmft batch", "aten::add", *micro, "aten::add_", *micro, *end])
    one = ["forward"] * 2 + ["loss"] * 2 + ["backward"] * 2
    assert found == ["batch", "forward", *one, "forward", *one, "clipping"] + ["optimizer"] * 2


PATHS = {
    "forward aten::addmm": "matrix products",
    "loss LinearCrossEntropy aten::mm": "matrix products",
    "loss LinearCrossEntropy aten::sum": "loss",
    "forward ChunkedAttention aten::bmm": "attention",
    "backward ChunkedAttentionBackward aten::random_": "dropout",
    "forward aten::scaled_dot_product_attention aten::_flash_attention_forward": "attention",
    "forward DropoutFunction aten::clone aten::copy_": "dropout",
    "forward aten::native_dropout": "dropout",
    "forward aten::to aten::_to_copy aten::copy_": "copies and casts",
    "forward aten::layer_norm aten::native_layer_norm": "norms",
    "forward aten::gelu": "element-wise operators",
    "backward aten::gelu_backward": "element-wise operators",
    "backward aten::embedding_dense_backward": "embeddings",
    "optimizer Optimizer.step aten::_fused_adamw_": "optimizer and clipping",
    "clipping aten::linalg_vector_norm": "optimizer and clipping",
    "forward aten::view": "other",
}


@pytest.mark.parametrize("path", PATHS)
def test_the_family_follows_from_what_is_called_and_where(path):
    assert find_family(path) == PATHS[path]


def test_profile_prints_the_step_and_leaves_no_run_behind(command, corpus, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    line = " ".join(["profile", "steps=1", "cache_root=cache", *corpus, *TINY])
    code, printed, complaint = command(line)
    assert (code, complaint) == (0, "")
    for told in ("tokens/s", "% MFU", "matrix products", "backward", "calls a step"):
        assert told in printed
    assert {path.name for path in tmp_path.iterdir()} - before == {"cache"}
