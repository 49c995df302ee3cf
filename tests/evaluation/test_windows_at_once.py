"""How many windows are scored at once: as many as fit a fixed budget of memory."""

from dataclasses import replace

import pytest
from transformers import LlamaForCausalLM

from lmft.analysis.plan.activations import MemoryCounter
from lmft.commands.evaluate import with_windows_that_fit
from lmft.evaluation.scoring import score
from lmft.evaluation.windows import windows_of
from lmft.evaluation.windows_at_once import BUDGET, windows_at_once
from lmft.model.chunks import CPU_SIZES
from lmft.model.lm_head import find_head
from lmft.model.network import Network
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny
from tests.helpers.runs import compose


def open_evaluation(*overrides):
    run = Run(compose("hardware=cpu", "hardware.precision=fp32", *overrides))
    return run, build_components(run.config, {"test": run.splits["test"]})


def test_the_windows_scored_at_once_fit_the_budget(scored):
    run, components = open_evaluation(*scored)
    fitting = with_windows_that_fit(run, components).hardware
    assert fitting.micro_batch_size == windows_at_once(components.network, 64) > 64
    batches = components.batches["test"]
    windows = windows_of(batches, run.config.evaluation)
    with MemoryCounter(lambda: []) as counter:
        score(components.network, batches, fitting, windows)
    share = min(1, len(windows) / fitting.micro_batch_size)
    assert 0 < counter.peak < share * (BUDGET["cpu"] + CPU_SIZES.eval_chunk_bytes)


def test_wide_models_and_long_contexts_score_fewer_windows_and_never_less_than_training(scored):
    run, components = open_evaluation(*scored)
    network = components.network
    assert windows_at_once(network, 128) == windows_at_once(network, 64) // 2
    config = network.model.config.__class__(**network.model.config.to_dict())
    config.intermediate_size *= 20
    wide = replace(network, compute_model=LlamaForCausalLM(config))
    assert 1 <= windows_at_once(wide, 64) < windows_at_once(network, 64) / 15
    many = replace(components, hardware=replace(components.hardware, micro_batch_size=9999))
    assert with_windows_that_fit(run, many).hardware.micro_batch_size == 9999


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_every_architecture_tells_its_widths(kind):
    model = build_tiny(kind)
    assert windows_at_once(Network(model, model, find_head(model)), 2**24) == 1
    assert windows_at_once(Network(model, model, None), 16) > 8


def test_evaluate_needs_few_passes_unless_told_a_micro_batch_size(scored, command):
    passes, forward = [], LlamaForCausalLM.forward

    def counting(self, *args, **kwargs):
        passes.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    LlamaForCausalLM.forward = counting
    try:
        line = "evaluate tracker=none hardware=cpu " + " ".join(scored)
        assert command(line)[0] == 0
        few = [size for size in passes if size > 8]
        assert len(few) == 1
        passes.clear()
        assert command(f"{line} hardware.micro_batch_size=4 evaluation.max_blocks=9")[0] == 0
        assert max(passes) == 4
    finally:
        LlamaForCausalLM.forward = forward
