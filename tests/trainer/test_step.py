"""Training steps: splitting a batch changes nothing, and losses are transformers.Trainer's."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lmft.config.training_knobs import Precision
from lmft.dataset.batches import Batches
from lmft.dataset.token_stream import Blocks, TokenStream
from lmft.dataset.tokenizer import train_tokenizer
from lmft.hardware.device import Hardware
from lmft.model.mixed_precision import build_network
from lmft.objective import CausalLM, MaskedLM
from lmft.runs.run import Run
from lmft.trainer.components import build_components
from lmft.trainer.gradients import DropoutSeeds, accumulate_gradients
from tests.helpers.runs import compose


def tiny_model(objective):
    torch.manual_seed(0)
    if isinstance(objective, CausalLM):
        config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64,
                            attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)  # fmt: skip
        return GPT2LMHeadModel(config)
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    )  # fmt: skip


def gradients(objective, micro_batch_size):
    tokenizer = train_tokenizer(iter(["a cat"]), 300)
    ids = (np.arange(16 * 7 + 5) * 7 % 270 + 10).astype(np.uint16)  # 8 blocks, the last short
    stream = TokenStream(ids, np.array([len(ids)]), "")
    batch = next(Batches(Blocks(stream, 16), objective, tokenizer).training(8, 0, True))
    model = tiny_model(objective)
    hardware = Hardware(torch.device("cpu"), Precision.fp32, micro_batch_size, False, False)
    network = build_network(model, hardware)
    nats = accumulate_gradients(network, batch, hardware, DropoutSeeds(seed=0, step=1))
    return float(nats), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("objective", [CausalLM(), MaskedLM(0.3)], ids=["clm", "mlm"])
def test_how_a_batch_is_split_changes_neither_loss_nor_gradient(objective):
    whole, gradient = gradients(objective, 8)
    for micro_batch_size in (1, 2, 3):
        nats, split_gradient = gradients(objective, micro_batch_size)
        assert nats == pytest.approx(whole, rel=1e-6)
        assert float((gradient - split_gradient).norm() / gradient.norm()) < 1e-6


def test_each_step_and_micro_batch_has_its_own_dropout_seed():
    seeds = {DropoutSeeds(s, n).of(m) for s in range(5) for n in range(5) for m in range(5)}
    assert len(seeds) == 125 and max(seeds) < 2**63


def small_gpt2(folder, stories):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=3, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(stories).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def peer(shared):
    pytest.importorskip("accelerate")
    spec = importlib.util.spec_from_file_location("peer", shared / "peers" / "hf_trainer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # the peer's own
@pytest.mark.parametrize("kind", ["stories260k", "gpt2"])
def test_losses_are_those_of_transformers_trainer(
    kind, peer, stories, real_text, fit, store, tmp_path, monkeypatch, capsys
):
    name = stories if kind == "stories260k" else small_gpt2(tmp_path / "gpt2", stories)
    overrides = [
        *real_text, "model=pretrained", f"model.name={name}", "model.dropout=0",
        "dataset.separator=none", "trainer.shuffle=false", "trainer.max_steps=20",
        "optimizer.lr=5e-4", "hardware.precision=fp32", "evaluation.max_blocks=20",
        "dataset.block_size=32",
    ]  # fmt: skip
    folder = fit(*overrides, *store.overrides)
    run = Run(compose(*overrides, f"cache_root={tmp_path / 'cache'}"))
    batches = build_components(run.config, run.splits).batches
    for split, blocks in {"train": 160, "validation": 20}.items():
        np.save(tmp_path / f"{split}.npy", batches[split].blocks.read(np.arange(blocks)))
    words = f"--model {name} --train {tmp_path}/train.npy --eval {tmp_path}/validation.npy "
    words += f"--steps 20 --lr 5e-4 --no-dropout --out {tmp_path}/out"
    monkeypatch.setattr(sys, "argv", ["hf_trainer.py", *words.split()])
    capsys.readouterr()
    peer.main()
    theirs = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    ours = store.points(folder, "train/loss")
    assert list(ours) == list(range(1, 21))
    assert list(ours.values()) == pytest.approx(theirs["losses"], rel=1e-4)
    final = json.loads((folder / "result.json").read_text())["final"]
    assert final["loss"] == pytest.approx(theirs["eval_loss"], rel=1e-4)
