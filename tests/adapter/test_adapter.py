"""Adapters: losses as peft and Trainer have them, a base that nothing changes or copies."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmft.adapter.adapter_files import adapter_tensors, read_adapter, write_adapter
from lmft.adapter.attach import Base, attach_new, linear_maps, merge_adapter
from lmft.analysis.plan.estimate import weight_bytes
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.gradients import DropoutSeeds, accumulate_gradients
from lmft.trainer.step import training_steps
from lmft.trainer.training import start_training
from tests.helpers.adapters import load_base, trainer_losses
from tests.helpers.architectures import CAUSAL, build_tiny
from tests.helpers.runs import compose

STEPS = 3
WORDS = [
    "model=pretrained", "hardware=cpu", "hardware.precision=fp32", "dataset.block_size=40",
    "dataset.separator=none", "trainer.batch_size=4", "trainer.shuffle=false",
    f"trainer.max_steps={STEPS}", "tracker=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(stories, real_text, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [*WORDS, *real_text, f"model.name={stories}", f"cache_root={cache}"]


def build(words):
    """The training that these words start, at its beginning."""
    run = Run(compose(*words))
    return start_training(run.config, build_components(run.config, run.splits))


def blocks_of(training):
    batches = training.batches(1)
    return torch.cat([part.inputs for _ in range(STEPS) for part in next(batches)])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what peft calls in transformers
@pytest.mark.parametrize(
    "adapter", ["lora", "lora adapter.train_also=[embeddings]", "dora adapter.targets=[v_proj]"]
)
def test_losses_are_those_of_peft_and_trainer(adapter, words, stories, tmp_path):
    from peft import PeftModel

    training = build([*words, *f"adapter={adapter}".split(), "optimizer.lr=1e-2"])
    write_adapter(training.components.network.model, tmp_path)
    base, whole = load_base(stories), "train_also" in adapter
    if whole:  # peft would train a copy of the embeddings, and leave the tied head as it was
        (tmp_path / "adapter_config.json").write_text(
            json.dumps(
                json.loads((tmp_path / "adapter_config.json").read_text())
                | {"ensure_weight_tying": True, "modules_to_save": ["embed_tokens"]}
            )
        )
    model = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    ours = [step.loss.mean for step in training_steps(training)]
    theirs = trainer_losses(model, blocks_of(training), tmp_path, 4, STEPS, lr=1e-2)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[-1] < ours[0] - 0.1


def test_a_new_adapter_changes_nothing_and_its_lr_is_ten_times_as_high(words):
    run = Run(compose(*words, "adapter=lora"))
    assert run.values["optimizer"]["lr"] == 2e-4
    components = build_components(run.config, run.splits)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        base = load_base(run.values["model"]["name"])(ids).logits
        assert torch.equal(components.network.model(ids).logits, base)


class Shapes(TorchDispatchMode):
    """Keeps the shapes of all tensors that operators make; the model's own are not among them."""

    def __init__(self, model):
        super().__init__()
        self.seen, self.own = set(), {w.untyped_storage().data_ptr() for w in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.own:
            self.seen |= {tuple(out.shape), tuple(out.shape)[::-1]}
        return out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("knob", ["adapter=lora", "model.freeze=[embeddings,layers.0-4]", ""])
def test_no_gradient_of_a_frozen_weight_is_formed(knob, precision, words):
    training = build([*words, *knob.split(), f"hardware.precision={precision}"])
    network, parts = training.components.network, next(training.batches(1))
    network.compute_model.train()
    with Shapes(network.compute_model) as shapes:
        accumulate_gradients(network, parts, training.components.hardware, DropoutSeeds(0, 1))
    frozen = {n: w for n, w in network.compute_model.named_parameters() if not w.requires_grad}
    formed = [
        (n, tuple(w.shape))
        for n, w in frozen.items()
        if w.ndim > 1 and tuple(w.shape) in shapes.seen
    ]
    assert not formed and all(w.grad is None for w in frozen.values())
    assert bool(frozen) == bool(knob)
    if not knob:  # the law can be broken
        assert tuple(network.head.linear.weight.shape) in shapes.seen


def test_the_base_is_in_low_precision_alone_and_shared(words):
    training = build([*words, "adapter=lora", "hardware.precision=bf16"])
    network = training.components.network
    pairs = zip(network.model.parameters(), network.compute_model.parameters(), strict=True)
    for master, low in pairs:
        assert low.dtype is torch.bfloat16
        if master.requires_grad:
            assert master.dtype is torch.float32 and master is not low
        else:
            assert master is low
    weights = sum(w.numel() for group in training.optimizer.param_groups for w in group["params"])
    assert weights == sum(w.numel() for w in adapter_tensors(network.model).values())
    base = sum(w.numel() for w in network.model.parameters()) - weights
    buffers = 2 * sum(b.nbytes for b in network.model.buffers())
    assert weight_bytes(network.models) == 2 * base + (4 + 2) * weights + buffers  # as plan counts


def test_nothing_below_the_first_adapter_needs_gradients(words):
    training = build([*words, "adapter=lora", r"adapter.targets='.*layers\.3\..*'"])
    network, needed = training.components.network, []
    for layer in network.compute_model.model.layers:
        layer.register_forward_hook(lambda layer, args, out: needed.append(out.requires_grad))
    parts = next(training.batches(1))
    accumulate_gradients(network, parts, training.components.hardware, DropoutSeeds(0, 1))
    assert needed == [False, False, False, True, True]


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_micro_batches_give_the_same_gradients(adapter, words):
    training = build([*words, f"adapter={adapter}", "adapter.rank=4"])
    network, hardware = training.components.network, training.components.hardware
    parts, found = next(training.batches(1)), []
    for size in (4, 1):
        network.zero_gradients()
        accumulate_gradients(
            network, parts, replace(hardware, micro_batch_size=size), DropoutSeeds(0, 1)
        )
        found.append([gradient.clone() for gradient in network.gradients()])
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("kind", ["gpt2", "bert", "albert", "gpt_neox"])
def test_an_adapter_of_any_architecture_is_written_read_and_merged(kind, adapter, tmp_path):
    config = Run(compose(f"adapter={adapter}", "adapter.rank=2")).config.adapter
    models = [build_tiny(kind) for _ in range(2)]
    inside, ids = linear_maps(models[0]), torch.arange(12)[None]
    assert inside and not any(name.startswith(("lm_head", "cls", "embed_out")) for name in inside)
    for seed, model in enumerate(models):
        before = model(ids).logits.detach()
        attach_new(model, config, Base("base", None), kind in CAUSAL, seed)
        model.eval()
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)
        assert {n for n, m in model.named_modules() if hasattr(m, "lora_A")} == set(inside)
    with torch.no_grad():
        for name, weight in models[0].named_parameters():
            if "lora_B" in name:
                weight.normal_()
    write_adapter(models[0], tmp_path)
    read_adapter(models[1], tmp_path)
    outputs = [model(ids).logits.detach() for model in models]
    assert torch.equal(*outputs) and not torch.allclose(outputs[0], before, atol=1e-3)
    merge_adapter(models[1])
    torch.testing.assert_close(models[1](ids).logits, outputs[0], rtol=1e-3, atol=1e-3)
    names = {name for name, _ in models[1].named_parameters()}
    assert names == {name for name, _ in build_tiny(kind).named_parameters()}
