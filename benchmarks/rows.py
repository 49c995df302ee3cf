"""The rows of the benchmark: what is compared with what, and the targets.

Where the hardware does not compute bf16 natively, fp32 is measured on both sides instead.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.commands import share, start_up, sweep, tokenize
from benchmarks.duel import (
    Targets,
    compile_twice,
    evaluate_alternately,
    track,
    train_alone,
    train_alternately,
)
from benchmarks.figures import Figure, Target
from benchmarks.ours import SHARED, TEXT, words_of
from benchmarks.turns import Job

MODELS = Path(os.environ.get("LMFT_MODELS", "models")).absolute()
DISTILGPT2 = str(SHARED / "models" / "distilgpt2-architecture")
STORIES = str(SHARED / "models" / "stories260k")
MINILM, SMOLLM2 = (str(MODELS / n) for n in ("minilm-l6-h384-uncased", "smollm2-135m-instruct"))
LABELS = {DISTILGPT2: "distilgpt2", MINILM: "MiniLM", SMOLLM2: "SmolLM2"}
FIRST_STEP = Target(10, at_most=True)  # s


@dataclass(frozen=True)
class Row:
    """One comparison or measurement of the benchmark."""

    name: str
    what: str
    measure: Callable[[int, Path], list[Figure]]  # (number of pairs, empty folder) -> figures
    needs: str  # the row is skipped if this folder does not exist
    quick: bool = False  # part of BENCH=quick


def all_rows(half: str) -> dict[str, Row]:
    """Return all rows by name; `half` is the precision that is measured in place of bf16."""
    rows = [*training_rows(half), large_vocabulary(), evaluation(half), *other_rows(half)]
    return {row.name: row for row in rows}  # the last of rows with equal names


def training_rows(half: str) -> list[Row]:
    """Return the rows of training against Trainer; all but one set their targets for bf16."""
    short = Job(DISTILGPT2, scratch=True, block=128, batch=8, precision=half)
    short_plain = replace(short, dropout=False)
    long, long_plain = (replace(job, block=1024, batch=4) for job in (short, short_plain))
    fp32 = replace(short, precision="fp32")
    minilm = replace(short, model=MINILM, scratch=False, objective="mlm")
    smollm2 = replace(short, model=SMOLLM2, scratch=False)
    lora = replace(smollm2, block=512, batch=4, rank=16)
    memory, plain_memory = ({"peak memory": Target(bound, at_most=True)} for bound in (0.4, 0.45))
    return [
        training(short, fp32, {"speed": Target(2.2, 2.5)}),
        training(short, short, {"speed": Target(1.25, 1.4)}),
        training(short, replace(short, compiled=True), {"speed": Target(1.1)}),
        training(short_plain, short_plain, {"speed": Target(1.2, 1.35)}),
        training(long, long, {"speed": Target(2.0, 2.5)} | memory),
        training(long_plain, long_plain, {"speed": Target(1.5)} | plain_memory),
        training(fp32, fp32, {"speed": Target(1.1)}, meant="fp32"),
        training(minilm, minilm, {"speed": Target(1.2)}),
        training(smollm2, smollm2, {"speed": Target(1.2)}),
        training(lora, lora, {"speed": Target(1.3), "peak memory": Target(0.5, at_most=True)}),
    ]


def large_vocabulary() -> Row:
    """Return the row of training whose logits are the largest part: 262,144 tokens, fp32."""
    job = Job(DISTILGPT2, scratch=True, block=128, batch=4, precision="fp32")
    targets = {"speed": Target(1), "peak memory": Target(1, at_most=True)}

    def measure(pairs: int, folder: Path) -> list[Figure]:
        model = shutil.copytree(job.model, folder / "model", copy_function=shutil.copyfile)
        config = json.loads((model / "config.json").read_text()) | {"vocab_size": 262_144}
        (model / "config.json").write_text(json.dumps(config))
        own = replace(job, model=str(model))
        return train_alternately(own, own, 6, targets, pairs, folder)

    return Row(
        "vocabulary-262144-fp32",
        "training (clm), distilgpt2 with 262,144 tokens, 4 blocks of 128, fp32, dropout on, "
        "against Trainer fp32",
        measure,
        job.model,
    )


def training(ours: Job, theirs: Job, targets: Targets, meant: str = "bf16") -> Row:
    """Return a training row; its targets are set for lmft in the precision `meant`."""
    label = LABELS[ours.model]
    name = f"{ours.block}-{ours.precision}-vs-{theirs.precision}"
    name += ("-compiled" if theirs.compiled else "") + ("" if ours.dropout else "-no-dropout")
    name = f"lora-{name}" if ours.rank else name
    adapter = f"LoRA of rank {ours.rank}, " if ours.rank else ""
    what = (
        f"training ({ours.objective}), {label}, {adapter}{ours.batch} blocks of {ours.block}, "
        f"{ours.precision}, dropout {'on' if ours.dropout else 'off'}, against Trainer "
        f"{theirs.precision}{' with torch_compile' if theirs.compiled else ''}"
    )
    short = ours.block == 128
    targets = meant_for(meant, ours, targets) | {"first step, beyond the median": FIRST_STEP}
    return Row(
        name if ours.model == DISTILGPT2 else f"{label.lower()}-{name}",
        what,
        partial(train_alternately, ours, theirs, 12 if short else 4, targets),
        ours.model,
        quick=short,
    )


def meant_for(precision: str, job: Job, targets: Targets) -> Targets:
    """Return the targets, marked as set for `precision` if the job uses another one."""
    if job.precision == precision:
        return targets
    return {name: replace(target, precision=precision) for name, target in targets.items()}


def evaluation(half: str) -> Row:
    """Return the row of evaluation on blocks of 1024."""
    job = Job(DISTILGPT2, scratch=True, block=1024, batch=4, precision=half, evaluates=True)
    targets = {"speed": Target(1.5), "peak memory": Target(0.5, at_most=True)}
    return Row(
        f"evaluate-1024-{half}-vs-{half}",
        f"evaluation, distilgpt2, 64 blocks of 1024, {half}, against Trainer.evaluate {half}",
        partial(evaluate_alternately, job, job, 64, meant_for("bf16", job, targets)),
        job.model,
    )


def limit(job: Job, target: Target) -> Row:
    """Return the row of training with no other process running.

    The training rows report the same share of the limit while a second process is alive.
    """
    dropout = "on" if job.dropout else "off"
    return Row(
        f"limit-128-{job.precision}{'' if job.dropout else '-no-dropout'}",
        f"training MFU, distilgpt2, 8 blocks of 128, {job.precision}, dropout {dropout}, "
        "no other process running",
        partial(train_alone, job, meant_for("bf16", job, {"share of the limit": target})),
        job.model,
        quick=True,
    )


def other_rows(half: str) -> list[Row]:
    """Return the rows other than training against Trainer and evaluation."""
    job = Job(DISTILGPT2, scratch=True, block=128, batch=8, precision=half)
    stories = Job(STORIES, scratch=False, block=128, batch=8, precision="fp32")
    start = [w for w in words_of(replace(stories, turns=1)) if not w.startswith("run_root=")]
    shared = [w for w in words_of(replace(job, turns=6)) if not w.startswith("run_root=")]
    shared = [*shared, "evaluation.max_blocks=2"]
    ddp, fsdp = ([*shared, f"hardware={name}", "hardware.processes=2"] for name in ("ddp", "fsdp"))
    tiny = ["trainer.max_steps=20", "evaluation.max_blocks=8", "hardware.precision=fp32"]
    return [
        *(limit(replace(job, dropout=dropout), target)
          for dropout, target in ((True, Target(60, 65)), (False, Target(70, 75)))),
        Row("tokenize", "tokenizing WikiText-2's training text into blocks, against datasets.map "
            "and group_texts", partial(tokenize, TEXT / "train.txt", Target(4)), str(TEXT)),
        Row("start", "time from the command to the end of step 1, stories260k, corpus cached, "
            "including the validation of 8 blocks, against the Trainer script without validation",
            partial(start_up, start, stories, Target(0.7, at_most=True)), STORIES),
        Row(f"ddp-{half}", f"distilgpt2, 8 blocks of 128, {half}: 2 processes with half the "
            "threads each, ddp, against 1 process", partial(share, ddp, shared), DISTILGPT2),
        Row(f"fsdp-{half}", f"distilgpt2, 8 blocks of 128, {half}: 2 processes, fsdp against ddp",
            partial(share, fsdp, ddp), DISTILGPT2),
        Row(f"compile-{half}", f"the first step with hardware.compile=true, {half}, cached code",
            partial(compile_twice, replace(job, compiled=True), FIRST_STEP), DISTILGPT2),
        Row(f"tracking-{half}", f"logging to MLflow, in a step of 8 blocks of 128, {half}",
            partial(track, replace(job, tracked=True), Target(1, at_most=True)), DISTILGPT2),
        Row("sweep", "each further job of a sweep, in addition to its 20 steps, the default tiny "
            "model, 8 blocks validated", partial(sweep, tiny, Target(1, at_most=True)), DISTILGPT2),
    ]  # fmt: skip
