"""Documents of a block: losses, gradients and dropout are those of each document alone."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lmft.config.dataset_knobs import Attention, LongDocuments, Packing
from lmft.config.training_knobs import EvaluationConfig, Precision, WindowRule
from lmft.dataset.batches import Batches
from lmft.dataset.block_rule import BlockRule
from lmft.dataset.document_blocks import cut_documents
from lmft.dataset.token_stream import TokenStream
from lmft.errors import UserError
from lmft.evaluation.scoring import score
from lmft.evaluation.windows import windows_of
from lmft.hardware.device import Hardware
from lmft.model.kernels import attention
from lmft.model.kernels.attention import attend, compile_attention, replace_attention
from lmft.model.kernels.document_attention import DOCUMENTS, attend_by_torch
from lmft.model.mixed_precision import build_network
from lmft.model.probe import check_documents, keeps_documents_apart
from lmft.objective import Batch, CausalLM, MaskedLM
from lmft.trainer.gradients import DropoutSeeds, accumulate_gradients
from tests.helpers.architectures import CAUSAL, MASKED, build_tiny
from tests.helpers.training import without_dropout

KINDS = ["gpt2", "llama", "bert", "roberta", "mistral", "modernbert"]
WINDOWED = {"mistral": 4, "modernbert": 4}
LENGTHS = [5, 1, 9, 7, 16, 3, 2, 21, 8, 12]
CONFIG = EvaluationConfig(
    split=None, context=None, stride=None, prefix="none", windows=WindowRule.strided,
    max_blocks=None, mask_draws=1, pseudo=False,
)  # fmt: skip


class Tokens:
    """What a masked objective asks of a tokenizer."""

    all_special_ids, mask_token_id = [0, 1, 2], 3

    def __len__(self):
        return 97

    def __call__(self, text, **_):
        return {"input_ids": [50, 51]}


def open_batches(kind, attention=Attention.document, long=LongDocuments.split, size=16):
    ids = np.random.default_rng(0).integers(4, 97, sum(LENGTHS))
    stream = TokenStream(ids, np.cumsum(LENGTHS), "")
    blocks = cut_documents(stream, size, BlockRule(Packing.documents, attention, long), 0)
    return Batches(blocks, MaskedLM(0.3) if kind in MASKED else CausalLM(), Tokens())


def build(kind, masks=False, compiled=False):
    """A network and its hardware; with masks, documents are attended by torch's kernel."""
    model = without_dropout(kind)
    if kind in WINDOWED:
        model.config.sliding_window = model.config.local_attention = WINDOWED[kind]
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3  # so that attention matters
    hardware = Hardware(torch.device("cpu"), Precision.fp32, 4, compiled, False)
    network = build_network(model, hardware)
    if masks:
        network.compute_model.set_attn_implementation("sdpa")
        compile_attention(network.compute_model)
    return network, hardware


def one_by_one(batch):
    """The documents of a batch, each as a batch of its own."""
    for inputs, targets, positions in zip(
        batch.inputs, batch.targets, batch.positions, strict=True
    ):
        starts = [*np.flatnonzero(positions == 0), len(positions)]
        for start, end in zip(starts, starts[1:], strict=False):
            yield Batch(inputs[None, start:end], targets[None, start:end])


def gradients(network, hardware, parts):
    nats = accumulate_gradients(network, parts, hardware, DropoutSeeds(0, 1))
    found = [gradient.clone() for gradient in network.gradients()]
    network.zero_gradients()
    return nats.item(), found


@pytest.mark.parametrize("masks", [False, True], ids=["each", "masks"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_have_the_loss_and_gradients_of_each_alone(kind, masks):
    network, hardware = build(kind, masks)
    (packed,) = next(open_batches(kind).training(9, 0, True))
    alone = list(one_by_one(packed))
    assert len(alone) > len(packed.inputs) > 4  # micro-batches of 4
    network.compute_model.train()
    nats, expected = gradients(network, hardware, alone)
    found, ours = gradients(network, hardware, [packed])
    assert found == pytest.approx(nats, rel=1e-5)
    for one, other in zip(ours, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
    together = gradients(network, hardware, [replace(packed, positions=None)])[0]
    assert together != pytest.approx(nats, rel=1e-4)


@pytest.mark.parametrize("prefix", ["none", "x"])
@pytest.mark.parametrize("rule", WindowRule)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_evaluated_documents_have_the_nats_of_each_alone(kind, rule, prefix):
    if kind == "bert" and (prefix != "none" or rule is WindowRule.rolling):
        return  # is refused
    network, hardware = build(kind)
    batches = open_batches(kind)
    windows = windows_of(batches, replace(CONFIG, prefix=prefix, windows=rule))
    assert windows.rows is not None and len(np.unique(windows.rows)) < len(windows)
    found = score(network, batches, hardware, windows)
    alone = score(network, batches, hardware, replace(windows, rows=None))
    assert np.array_equal(found.positions, alone.positions)
    assert np.array_equal(found.windows, alone.windows)
    assert found.nats == pytest.approx(alone.nats, abs=1e-5)
    if kind == "bert":
        return
    ids, before = batches.blocks.stream.ids, [50, 51] if prefix == "x" else []
    text = torch.tensor([[*before, *ids[15:22]]])  # the fourth document
    with torch.no_grad():
        log_p = network.model(text).logits[0].log_softmax(-1)
    expected = -log_p[:-1].gather(1, text[0, 1:, None])[max(0, len(before) - 1) :, 0]
    first = 15 if before else 16
    chosen = (found.positions >= first) & (found.positions < 22)
    assert found.nats[chosen] == pytest.approx(expected.numpy(), abs=1e-5)
    scored = sum(LENGTHS) if before else sum(LENGTHS) - len(LENGTHS)
    if rule is WindowRule.strided and not before:
        scored -= 1  # the second piece of the document of 21 tokens begins with nothing before it
    assert len(found.nats) == scored


@pytest.mark.parametrize(("long", "expected"), [("truncate", 15), ("drop", 0), ("split", 19)])
def test_long_documents_are_scored_as_they_are_trained(long, expected):
    batches = open_batches("gpt2", long=LongDocuments(long))
    windows = windows_of(batches, CONFIG)
    network, hardware = build("gpt2")
    found = score(network, batches, hardware, windows)
    assert ((found.positions >= 43) & (found.positions < 64)).sum() == expected
    assert len(found.nats) == sum(part.num_targets for part in next(batches.training(99, 0, True)))


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_models_that_see_other_documents_are_found(kind):
    model = build_tiny(kind)
    replace_attention(model)
    others = {"stablelm", "bloom", "deberta-v2", "mpnet"}
    assert keeps_documents_apart(model) == (kind not in others)
    if kind in others:
        config = SimpleNamespace(label=None, name=kind)
        with pytest.raises(UserError, match=f"model={kind} .* dataset.attention=block"):
            check_documents(config, model)


@pytest.mark.parametrize("short", [0, 10**6])
@pytest.mark.parametrize("causal", [True, False])
def test_dropout_draws_a_new_mask_in_each_document(causal, short, monkeypatch):
    monkeypatch.setattr(attention, "SHORT_BLOCK", short)
    size, half = 128, 64
    positions = torch.arange(half).repeat(3, 2)
    ones = torch.ones(3, 4, size, size)
    value = torch.eye(size).expand(3, 4, size, size)  # so that the weights come out
    torch.manual_seed(0)
    weights, _ = attend(
        nn.Module(), 0 * ones, ones, value, None, 0.1, is_causal=causal, **{DOCUMENTS: positions}
    )
    weights = weights.transpose(1, 2)  # (B, A, T, T)
    blocks = [weights[:, :, part, part] for part in (slice(half), slice(half, size))]
    assert not weights[:, :, :half, half:].any() and not weights[:, :, half:, :half].any()
    seen = torch.ones(half, half).tril().bool() if causal else torch.ones(half, half).bool()
    kept = [(block != 0)[:, :, seen] for block in blocks]
    for mask, block in zip(kept, blocks, strict=True):
        assert 1 - mask.float().mean() == pytest.approx(0.1, abs=0.01)
        assert block.sum(-1).mean() == pytest.approx(1, abs=0.01)
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[0][0], kept[0][1])


def test_bf16_documents_are_those_of_torch():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 40, 8, dtype=torch.bfloat16) for heads in (4, 2, 2))
    positions = torch.cat([torch.arange(n) for n in (40, 13, 1, 26)]).view(2, 40)
    module = nn.Module()
    module.num_key_value_groups = 2
    call = partial(attend, is_causal=True, **{DOCUMENTS: positions})
    expected, _ = attend_by_torch(
        module, query.float(), key.float(), value.float(), None, **call.keywords
    )
    found, _ = call(module, query, key, value, None)
    assert (found.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.soak  # compiles
@pytest.mark.filterwarnings("ignore")  # torch warns of the insides of its compiler
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_compiled_layers_keep_documents_apart(kind):
    torch._dynamo.reset()
    (packed,) = next(open_batches(kind).training(4, 0, True))
    network, hardware = build(kind, compiled=True)
    network.compute_model.train()
    nats, expected = gradients(network, hardware, [packed])
    with network.compiled(True):
        found, ours = gradients(network, hardware, [packed])
    assert found == pytest.approx(nats, rel=1e-5)
    for one, other in zip(ours, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
