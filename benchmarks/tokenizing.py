"""Compare lmft with datasets.map in tokenizing WikiText-2 into blocks of 128 GPT-2 tokens.

    python -m benchmarks.tokenizing [--pairs 3] [--json FILE]

The usual pipeline is that of transformers' run_clm.py: datasets reads the text, a batched `map`
tokenizes it, and a second `map` (`group_texts`) cuts it into blocks, in one process and with an
empty cache. lmft uses `open_stream`, also with an empty cache. Both load a new tokenizer before
timing starts, so that neither benefits from the tokenizer's word cache. By articles, the usual
pipeline reads a prepared file with one article per line, while lmft splits the text into articles
within the timed part.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers

from benchmarks.machine import hardware, versions
from benchmarks.ours import SHARED
from lmft.config.dataset_knobs import DocumentRule
from lmft.dataset.sources import TextFiles
from lmft.dataset.split import Split
from lmft.dataset.token_stream import Blocks, open_stream
from lmft.dataset.tokenizer import load_tokenizer

TEXT = SHARED / "data" / "wikitext-2" / "train.txt"
TOKENIZER = str(SHARED / "models" / "gpt2-tokenizer")
BLOCK_SIZE = 128
TARGET = 4.0  # times as fast

Way = Callable[[Path, Any, Path], np.ndarray]  # (text, tokenizer, empty folder) -> blocks (N, T)


def ours(document: str) -> Way:
    """Return the lmft pipeline, `open_stream`, with the document rule `document`."""

    def run(text: Path, tokenizer: Any, folder: Path) -> np.ndarray:
        split = open_split(text, document)
        blocks = Blocks(open_stream(split, tokenizer, "none", folder), BLOCK_SIZE)
        whole = len(blocks.stream.ids) // BLOCK_SIZE
        return blocks.stream.ids[: whole * BLOCK_SIZE].reshape(whole, BLOCK_SIZE)

    return run


def usual(loader: str, **options: Any) -> Way:
    """Return the pipeline of run_clm.py, `datasets.map` twice; `loader` reads the text."""

    def run(text: Path, tokenizer: Any, folder: Path) -> np.ndarray:
        cache = str(folder)
        raw = datasets.load_dataset(
            loader, data_files={"train": str(text)}, cache_dir=cache, split="train", **options
        )
        tokenized = raw.map(
            lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=raw.column_names
        )
        blocks = tokenized.map(group_texts, batched=True)
        return blocks.with_format("numpy", columns=["input_ids"])

    return run


def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    """Concatenate the rows of a batch, cut blocks and drop the remainder, as in run_clm.py."""
    joined = {name: list(chain(*lists)) for name, lists in examples.items()}
    total = len(joined["input_ids"]) // BLOCK_SIZE * BLOCK_SIZE
    result = {
        name: [ids[i : i + BLOCK_SIZE] for i in range(0, total, BLOCK_SIZE)]
        for name, ids in joined.items()
    }
    result["labels"] = result["input_ids"].copy()
    return result


def open_split(text: Path, document: str) -> Split:
    """Return all of `text` as a training split."""
    source = TextFiles(text_column="text")
    rule = DocumentRule[document]
    return Split("train", "text_files", source, str(text), rule, None, 0.05, None)


def clock(way: Way, text: Path) -> tuple[float, np.ndarray]:
    """Return the seconds and the blocks of one pipeline."""
    tokenizer = load_tokenizer(TOKENIZER, revision=None)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        blocks = way(text, tokenizer, Path(folder))
        seconds = time.perf_counter() - started
        ids = blocks if isinstance(blocks, np.ndarray) else blocks[:]["input_ids"]
        return seconds, np.array(ids)


def compare(way: Way, other: Way, text: Path, others_text: Path, pairs: int) -> dict[str, Any]:
    """Time both pipelines in pairs; the one that runs first alternates."""
    seconds: tuple[list[float], list[float]] = [], []
    blocks: list[np.ndarray] = [np.array([]), np.array([])]
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 else (1, 0):
            taken, blocks[which] = clock((way, other)[which], (text, others_text)[which])
            seconds[which].append(taken)
    ratios = [theirs / mine for mine, theirs in zip(*seconds, strict=True)]
    return {
        "ours": seconds[0],
        "usual": seconds[1],
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "blocks": [len(some) for some in blocks],  # the usual pipeline drops the end of each batch
        "first_block_equal": bool((blocks[0][0] == blocks[1][0]).all()),
        "equal": np.array_equal(*blocks),
    }


def spread(seconds: list[float]) -> str:
    """Format the median, minimum and maximum."""
    return f"{statistics.median(seconds):6.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Compare both pipelines by rows and by articles, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        articles = Path(folder) / "articles.jsonl"
        documents = (text for text, _ in open_split(TEXT, "article").pieces())
        articles.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        lines = usual("text", keep_linebreaks=True)
        found = {
            "rows": compare(ours("line"), lines, TEXT, TEXT, arguments.pairs),
            "articles": compare(ours("article"), usual("json"), TEXT, articles, arguments.pairs),
        }
    print(f"{'by':10}{'ours, s':>24}{'usual, s':>24}{'speedup':>24}")
    for name, row in found.items():
        print(f"{name:10}" + "".join(f"{spread(row[k]):>24}" for k in ("ours", "usual", "ratios")))
    print(f"\n{arguments.pairs} pairs; median (min to max); target: speedup of {TARGET:g}.")
    print(f"{hardware()}; " + ", ".join(f"{name} {v}" for name, v in versions().items()))
    if arguments.json:
        report = {"hardware": hardware(), "versions": versions(), "results": found}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
