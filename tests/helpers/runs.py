"""Runs of tiny models: in this process, as a command line, and what they leave behind."""

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lmft.config.compose import compose as compose_in
from lmft.output.terminal import Terminal
from lmft.runs.finished import Job, Prune
from lmft.runs.run import Run
from lmft.tracker.run_log import read_points
from lmft.trainer.train import train

# 15 steps with evaluations that find a new best, checkpoints, and points to be sent.
BUSY = [
    "dataset.block_size=16", "trainer.batch_size=4", "trainer.epochs=3", "trainer.evaluate_every=6",
    "trainer.checkpoint_every=4", "cache_root=cache", "hardware=cpu", "optimizer.lr=1e-2",
]  # fmt: skip
MODELS = {  # by objective
    "clm": ["model=gpt2_tiny", "model.config={n_layer:1,n_embd:32,n_head:2}"],
    "mlm": ["model=bert_tiny", "model.config={num_hidden_layers:1,hidden_size:32}"],
}
SPEEDS = {"train/tokens_per_second", "train/share_of_limit"}  # metrics that no two runs share


def compose(*overrides: str) -> DictConfig:
    """The config that the command would compose."""
    return compose_in(list(overrides))


class Fit:
    """Runs as the command starts them, in this process, under one temporary folder."""

    def __init__(self, root: Path):
        self.root = root

    def __call__(self, *overrides: str, prune: Prune | None = None) -> Path:
        """Train; returns the run's folder."""
        roots = [f"run_root={self.root / 'runs'}", f"cache_root={self.root / 'cache'}"]
        # In fp32, whatever the machine has: bf16 is too coarse to compare the last digits.
        overrides = ("hardware=cpu", "hardware.precision=fp32", *overrides)
        composed = compose("tracker=none", *roots, *overrides)
        files = {"config.yaml": OmegaConf.to_yaml(composed)}
        files["overrides.yaml"] = OmegaConf.to_yaml(OmegaConf.create(list(overrides)))
        run = Run(composed, files)
        train(run, Terminal(), Job(run.folder.name, None, prune) if prune else None)
        return run.folder


def train_command(overrides: list[str], objective: str = "clm", *more: str) -> str:
    """A command line that trains the tiny model of `objective`, as in BUSY."""
    return " ".join([*BUSY, *overrides, f"objective={objective}", *MODELS[objective], *more])


def read_result(folder: Path) -> dict:
    """The content of result.json, without timings: what two equal runs share."""
    result = json.loads((folder / "result.json").read_text())
    del result["timing"]
    return result


def read_metrics(folder: Path) -> dict[tuple[int, str], float]:
    """Every metric of a run by step and name; each must be written once."""
    noted = [(p.step, k, v) for p in read_points(folder) for k, v in p.metrics.items()]
    metrics = {(step, name): value for step, name, value in noted}
    assert len(metrics) == len(noted), "a metric is written twice"
    return metrics


def repeatable_metrics(folder: Path) -> dict[tuple[int, str], float]:
    """The metrics that two equal runs share: all but SPEEDS."""
    return {key: value for key, value in read_metrics(folder).items() if key[1] not in SPEEDS}


RESULT = {"perplexity": 27.61, "fingerprint": "f", "conditions": {"split": "validation"}}


def write_run(folder: Path, result: dict | None = None, config: str = "seed: 0") -> Path:
    """Write the folder of a run that was never trained: 2 MB, finished if it has a result."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(config)
    (folder / "weights.bin").write_bytes(b"x" * 2_000_000)
    if result:
        (folder / "result.json").write_text(json.dumps({"validation": result, "test": None}))
    return folder
