"""Training and evaluation against transformers.Trainer, side by side: tokens/s and peak memory.

    python -m tests.benchmarks.training [--pairs 5] [--block 128] [--precision fp32] [--no-dropout]

Both train distilgpt2's architecture from random weights on the same blocks of WikiText-2, each in a
process of its own, in turns. What counts is the ratio of medians; the first steps are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lmft.blocks import Blocks, open_stream
from lmft.config import DocumentRule
from lmft.dataset import Split
from lmft.dataset.sources import TextFiles
from lmft.tokenizer import load_tokenizer

SHARED = Path(os.environ.get("LMFT_SHARED", Path(__file__).parents[3] / "shared")).absolute()
MODEL = SHARED / "models" / "distilgpt2-architecture"
TEXT = SHARED / "data" / "wikitext-2"
UNTIMED = 2  # steps
BATCH = {128: 8, 1024: 4}


def main() -> None:
    """Measure, and print a row for each side and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--block", type=int, choices=sorted(BATCH), default=128)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--their-precision", choices=["fp32", "bf16"])
    parser.add_argument("--no-dropout", action="store_true")
    ask = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"lmft": [], "Trainer": []}
    with tempfile.TemporaryDirectory() as folder:
        blocks = cut_blocks(Path(folder), ask.block, BATCH[ask.block] * ask.steps)
        for pair in range(ask.pairs):
            for side, run in (("lmft", run_ours), ("Trainer", run_theirs)):
                place = Path(folder) / f"{side}-{pair}"
                place.mkdir()
                found[side].append(run(ask, place, blocks))
                print(f"{side:>8}  {found[side][-1][0]:8.1f} tokens/s", flush=True)
    for name, column in (("tokens/s", 0), ("peak memory, MB", 1)):
        ours, theirs = (statistics.median(row[column] for row in found[side]) for side in found)
        pairs = [a[column] / b[column] for a, b in zip(*found.values(), strict=True)]
        print(
            f"{name}: lmft {ours:,.1f}, Trainer {theirs:,.1f}, ratio {ours / theirs:.2f} "
            f"(pairs {min(pairs):.2f} to {max(pairs):.2f})"
        )


def cut_blocks(folder: Path, size: int, count: int) -> Path:
    """The first blocks of the training split, as the peer reads them."""
    split = Split(
        "train",
        "wikitext2",
        TextFiles("text"),
        str(TEXT / "train.txt"),
        DocumentRule.auto,
        None,
        0.1,
        None,
    )
    tokenizer = load_tokenizer(str(MODEL), None)
    blocks = Blocks(open_stream(split, tokenizer, "none", cache_root()), size)
    np.save(folder / "blocks.npy", blocks.read(np.arange(count)).numpy())
    return folder / "blocks.npy"


def run_ours(ask: argparse.Namespace, folder: Path, blocks: Path) -> tuple[float, float]:
    """Tokens/s and MB of `lmft`."""
    words = [
        sys.executable, "-m", "lmft", "model=pretrained", f"model.name={MODEL}",
        "model.from_scratch=true", "dataset=text_files", f"dataset.train={TEXT / 'train.txt'}",
        f"dataset.validation={TEXT / 'valid.txt'}", "dataset.separator=none",
        f"dataset.block_size={ask.block}", f"trainer.batch_size={BATCH[ask.block]}",
        f"hardware.micro_batch_size={BATCH[ask.block]}", "trainer.shuffle=false",
        f"trainer.max_steps={ask.steps}", "evaluation.max_blocks=1", "optimizer.lr=2e-5",
        f"hardware.precision={ask.precision}", f"run_root={folder}", f"cache_root={cache_root()}",
        "tracker=none", *(["model.dropout=0"] if ask.no_dropout else []),
    ]  # fmt: skip
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    (run,) = folder.glob("*-*")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    key = "train/tokens_per_second"
    speeds = [line["metrics"][key] for line in lines if key in line["metrics"]]
    memory = json.loads((run / "result.json").read_text())["timing"]["peak_memory_bytes"]
    return statistics.median(speeds[UNTIMED:]), memory / 1e6


def run_theirs(ask: argparse.Namespace, folder: Path, blocks: Path) -> tuple[float, float]:
    """Tokens/s and MB of transformers.Trainer."""
    words = [
        sys.executable, str(SHARED / "peers" / "hf_trainer.py"), "--model", str(MODEL),
        "--train", str(blocks), "--scratch", "--steps", str(ask.steps),
        "--batch-size", str(BATCH[ask.block]), "--warmup-steps-untimed", str(UNTIMED),
        "--out", str(folder),
    ]  # fmt: skip
    if (ask.their_precision or ask.precision) == "bf16":
        words.append("--bf16")
    if ask.no_dropout:
        words.append("--no-dropout")
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return told["tokens_per_s_median"], told["peak_rss_gb"] * 1e3


def cache_root() -> Path:
    """Where tokens stay between measurements."""
    return Path.home() / ".cache" / "lmft"


if __name__ == "__main__":
    main()
