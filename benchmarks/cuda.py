"""Speed and memory of training on a GPU, whole commands beside what people would run otherwise.

    python -m benchmarks.cuda [--seconds 330] [--device cuda] [--small] [TASK-PREFIX ...]

Each task runs lmft and its peers one after the other, and prints its line as soon as it ends:
tokens/s over a window of steps on the wall clock, peak memory of tensors, the time to the end of
the first step. The peers are scripts of LMFT_SHARED/peers. `--small` tries the script on a CPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("LMFT_SHARED", Path(__file__).parents[2] / "shared")).absolute()
MODEL = SHARED / "models/distilgpt2-architecture"
TEXT = SHARED / "data/wikitext-2"
LAYERS = {"distilgpt2": 6, "gpt2": 12}
UNTIMED = 15  # steps before the window


@dataclass(frozen=True)
class Measured:
    """What one command reached."""

    speed: float  # tokens/s
    memory: float  # GB
    first_step: float  # seconds from the start of the command to the end of step 1
    share: float = 0.0  # model FLOPs utilization, the median over steps


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure."""

    device: str
    small: bool
    folder: Path
    ends: float  # on the monotonic clock

    def run(self, words: list[Any], **variables: str) -> str:
        """Return what a command prints; raise if it fails or takes too long."""
        left = self.ends - time.monotonic()
        if left < 5:
            raise TimeoutError("no time left")
        process = subprocess.run(
            [sys.executable, *map(str, words)], env=os.environ | variables, cwd=self.folder,
            capture_output=True, text=True, timeout=left,
        )  # fmt: skip
        if process.returncode:
            raise RuntimeError((process.stderr.strip() or process.stdout).splitlines()[-1])
        return process.stdout

    def ours(
        self, arch: str, batch: int, block: int, steps: int, *words: str, cache: str | None = None
    ) -> Measured:
        """Train with lmft."""
        if self.small:
            batch, block, steps = 2, 32, UNTIMED + 5
        root = Path(tempfile.mkdtemp(dir=self.folder))
        layers = 1 if self.small else LAYERS[arch]
        began = time.time()
        self.run([
            "-m", "lmft", "model=pretrained", f"model.name={MODEL}", "model.from_scratch=true",
            f"model.config={{n_layer: {layers}}}", "dataset=text_files",
            f"dataset.train={TEXT}/train.txt", f"dataset.validation={TEXT}/valid.txt",
            f"dataset.block_size={block}", f"trainer.batch_size={batch}", "optimizer.lr=2e-5",
            f"trainer.max_steps={steps}", "trainer.epochs=1000", "evaluation.max_blocks=2",
            f"hardware={self.device}", "hardware.precision=bf16", "tracker=none",
            f"run_root={root}", f"cache_root={self.folder}/cache", *words,
        ], **({"TORCHINDUCTOR_CACHE_DIR": cache} if cache else {}))  # fmt: skip
        (folder,) = root.glob("*-*")
        points = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        train = [point for point in points if "train/loss" in point["metrics"]]
        first, last = train[UNTIMED], train[-1]
        seconds = (last["time"] - first["time"]) / 1000
        timing = json.loads((folder / "result.json").read_text())["timing"]
        return Measured(
            speed=batch * block * (last["step"] - first["step"]) / seconds,
            memory=timing.get("peak_device_memory_bytes", 0) / 1e9,
            first_step=train[0]["time"] / 1000 - began,
            share=statistics.median(p["metrics"]["train/share_of_limit"] for p in train[UNTIMED:]),
        )

    def trainer(self, arch: str, batch: int, block: int, steps: int, *flags: str) -> Measured:
        """Train with transformers.Trainer in bf16."""
        if self.small:
            batch, block, steps = 2, 32, UNTIMED + 5
        printed = self.run([
            SHARED / "peers/trainer_gpu.py", "--model", MODEL, "--layers", LAYERS[arch],
            "--block", block, "--batch", batch, "--steps", steps, *flags,
        ])  # fmt: skip
        found = json.loads(printed.splitlines()[-1])
        return Measured(found["tok/s over window"], found["peak_GB"] or 0, found["first_step_s"])

    def plain(self, arch: str, batch: int, block: int, steps: int) -> Measured:
        """Train a GPT-2 in plain torch, compiled as a whole."""
        if self.small:
            batch, block, steps = 2, 32, UNTIMED + 5
        printed = self.run([
            SHARED / "peers/plain_gpt2.py", "--layers", LAYERS[arch], "--block", block,
            "--batch", batch, "--steps", steps, *(["--no-compile"] if self.small else []),
        ])  # fmt: skip
        found = json.loads(printed.splitlines()[-1])
        return Measured(found["tokens_per_s"], found["peak_GB"] or 0, found["first_step_s"])


def small_batches(bench: Bench) -> str:
    """distilgpt2, 8 x 128, beside Trainer."""
    size = ("distilgpt2", 8, 128)
    pairs = [(bench.ours(*size, 600), bench.trainer(*size, 150)) for _ in range(2)]
    return compare(pairs)


def small_batches_compiled(bench: Bench) -> str:
    """distilgpt2, 8 x 128, beside Trainer with torch_compile, after its warm-up."""
    size = ("distilgpt2", 8, 128)
    return compare([(bench.ours(*size, 600), bench.trainer(*size, 150, "--compile"))])


def long_blocks(bench: Bench) -> str:
    """distilgpt2, 16 x 1024, compiled, beside Trainer with torch_compile."""
    size = ("distilgpt2", 16, 1024)
    compiled = bench.ours(*size, 100, "hardware.compile=true")
    return compare([(compiled, bench.trainer(*size, 60, "--compile"))])


def long_blocks_as_shipped(bench: Bench) -> str:
    """distilgpt2, 16 x 1024, as shipped (100 steps are too few to be compiled)."""
    return describe(bench.ours("distilgpt2", 16, 1024, 100))


def any_kernels(bench: Bench) -> str:
    """distilgpt2, 16 x 1024, compiled, hardware.deterministic=false."""
    words = ("hardware.compile=true", "hardware.deterministic=false")
    return describe(bench.ours("distilgpt2", 16, 1024, 100, *words))


def gpt2(bench: Bench) -> str:
    """GPT-2 124M, 16 x 1024, compiled, beside plain torch."""
    size = ("gpt2", 16, 1024)
    return compare([(bench.ours(*size, 80, "hardware.compile=true"), bench.plain(*size, 60))])


def gpt2_any_kernels(bench: Bench) -> str:
    """GPT-2 124M, 16 x 1024, compiled, hardware.deterministic=false."""
    words = ("hardware.compile=true", "hardware.deterministic=false")
    return describe(bench.ours("gpt2", 16, 1024, 80, *words))


def evaluation(bench: Bench) -> str:
    """distilgpt2, 64 blocks of 1024, beside Trainer.evaluate in bf16."""
    words = ["--device", bench.device, *(["--small"] if bench.small else [])]
    ours, peer = (
        json.loads(bench.run(["-m", "benchmarks.cuda_evaluation", side, *words]).splitlines()[-1])
        for side in ("lmft", "trainer")
    )
    ratio = ours["speed"] / peer["speed"]
    return f"lmft {ours['speed']:,.0f} tokens/s, peer {peer['speed']:,.0f}: {ratio:.2f} times"


def start(bench: Bench) -> str:
    """Seconds from the command to the end of step 1: not compiled; compiled; compiled, cached."""
    cache, size = str(bench.folder / "inductor"), ("distilgpt2", 16, 1024, UNTIMED + 3)
    runs = [bench.ours(*size)]
    runs += [bench.ours(*size, "hardware.compile=true", cache=cache) for _ in range(2)]
    return "; ".join(f"{run.first_step:.1f}" for run in runs)


TASKS: dict[str, Callable[[Bench], str]] = {
    "s1": small_batches,
    "s2": long_blocks,
    "s3": gpt2,
    "s4": evaluation,
    "s5": gpt2_any_kernels,
    "s6": any_kernels,
    "s7": start,
    "s8": small_batches_compiled,
    "s9": long_blocks_as_shipped,
}


def describe(run: Measured) -> str:
    """Return the figures of one command."""
    return (
        f"{run.speed:,.0f} tokens/s, {run.memory:.2f} GB, first step {run.first_step:.1f} s, "
        f"share {100 * run.share:.1f} %"
    )


def compare(pairs: list[tuple[Measured, Measured]]) -> str:
    """Return the figures of the first pair, and the median ratios of all."""
    speed = statistics.median(ours.speed / peer.speed for ours, peer in pairs)
    memory = statistics.median(ours.memory / (peer.memory or 1) for ours, peer in pairs)
    ours, peer = pairs[0]
    return (
        f"lmft {describe(ours)}; peer {peer.speed:,.0f} tokens/s, {peer.memory:.2f} GB, first step "
        f"{peer.first_step:.1f} s: {speed:.2f} times, memory {memory:.2f}"
    )


def main() -> None:
    """Run the tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=330)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("tasks", nargs="*")
    chosen = parser.parse_args()
    ends = time.monotonic() + chosen.seconds
    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(chosen.device, chosen.small, Path(folder), ends)
        for name, task in TASKS.items():
            if chosen.tasks and not name.startswith(tuple(chosen.tasks)):
                continue
            try:
                result = task(bench)
            except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
                result = f"failed: {error}"[:300]
            left = ends - time.monotonic()
            print(f"{name} {task.__doc__} {result} ({left:.0f} s left)", flush=True)


if __name__ == "__main__":
    main()
