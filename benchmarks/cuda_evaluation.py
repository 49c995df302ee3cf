"""The speed of an evaluation of lmft or of transformers.Trainer, in tokens/s, as JSON.

python -m benchmarks.cuda_evaluation lmft|trainer [--device cuda] [--small]
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.cuda import MODEL, TEXT

BLOCKS, BATCH = 64, 8
REPEATS = 3  # after one that is not timed


def fastest(evaluate: Callable[[], object], tokens: int) -> float:
    """Return the best rate of several evaluations, in tokens/s."""
    evaluate()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        evaluate()
        seconds.append(time.perf_counter() - began)
    return tokens / min(seconds)


def ours(device: str, block: int) -> float:
    """Score blocks with lmft."""
    from lmft.config.compose import compose
    from lmft.evaluation.scoring import score
    from lmft.evaluation.windows import windows_of
    from lmft.runs.run import Run
    from lmft.trainer.components import build_components

    words = [
        "model=pretrained", f"model.name={MODEL}", "model.from_scratch=true",
        "dataset=text_files", f"dataset.train={TEXT}/train.txt",
        f"dataset.validation={TEXT}/valid.txt", f"dataset.block_size={block}",
        f"evaluation.max_blocks={BLOCKS}", f"hardware={device}", "hardware.precision=bf16",
        f"hardware.micro_batch_size={BATCH}",
    ]  # fmt: skip
    run = Run(compose(words))
    components = build_components(run.config, {"validation": run.splits["validation"]})
    batches = components.batches["validation"]
    windows = windows_of(batches, run.config.evaluation)
    return fastest(
        lambda: score(components.network, batches, components.hardware, windows), BLOCKS * block
    )


def trainers(block: int) -> float:
    """Evaluate as many blocks with transformers.Trainer in bf16."""
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

    ids = np.random.default_rng(0).zipf(1.3, size=(BLOCKS, block)).clip(1, 50257) - 1
    rows = [{"input_ids": row, "labels": row.clone()} for row in torch.from_numpy(ids)]
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL))
    model.loss_type = "ForCausalLM"
    settings = TrainingArguments(
        output_dir="out", per_device_eval_batch_size=BATCH, bf16=True, bf16_full_eval=False,
        prediction_loss_only=True, report_to="none", disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, eval_dataset=rows)
    return fastest(trainer.evaluate, BLOCKS * block)


def main() -> None:
    """Measure one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("lmft", "trainer"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    chosen = parser.parse_args()
    block = 32 if chosen.small else 1024
    speed = ours(chosen.device, block) if chosen.side == "lmft" else trainers(block)
    print(json.dumps({"speed": speed}))


if __name__ == "__main__":
    main()
