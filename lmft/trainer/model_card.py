"""The model card of a run: its numbers, and what is needed to reproduce them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from lmft.config.schema import ModelConfig, RunConfig
from lmft.dataset.sources import HubDataset
from lmft.dataset.splits import Split
from lmft.evaluation.generation import Sample
from lmft.hardware.device import Hardware
from lmft.output.markdown import details, fence, table
from lmft.output.plots import COLORS, GRAY, as_svg, new_figure, thin
from lmft.output.sanitize import redact, redact_all
from lmft.runs.provenance import Origin
from lmft.runs.run_dir import RunFolder
from lmft.storage.atomic import write_text
from lmft.storage.hub import content_digest, find_local_folder, pinned_revision
from lmft.tracker.protocol import RunLog
from lmft.tracker.run_log import read_losses
from lmft.trainer.components import Components

CARD, CURVE = "card.md", "curve.svg"


@dataclass(frozen=True)
class CardFacts:
    """What the card of a finished run is written from."""

    config: RunConfig
    values: dict[str, Any]  # the same, as plain values
    origin: Origin
    splits: dict[str, Split]
    components: Components
    result: dict[str, Any]  # the content of result.json
    samples: dict[str, list[Sample]]  # before and after training


def write_card(facts: CardFacts, folder: RunFolder, log: RunLog) -> None:
    """Write the card and its loss curve to the run's folder, its checkpoint and the tracker."""
    body = redact(describe_run(facts, folder.path.name))
    curve = draw_losses(read_losses(folder.path), facts.result["best_step"])
    readme = f"---\n{_yaml(card_metadata(facts.config))}---\n\n{body}"
    for path, text in {
        folder.path / CARD: body,
        folder.path / CURVE: curve,
        folder.checkpoint / "README.md": readme,
        folder.checkpoint / CURVE: curve,
    }.items():
        write_text(path, text)
    log.log_text(body, CARD)
    log.log_text(curve, CURVE)


def card_metadata(config: RunConfig) -> dict[str, Any]:
    """Return the metadata of a model card on the Hugging Face hub, except the license."""
    task = "text-generation" if config.objective.target_shift else "fill-mask"
    kind = "causal-lm" if config.objective.target_shift else "masked-lm"
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    name = config.model.name
    if name and not config.model.from_scratch and find_local_folder(name, "model.name") is None:
        metadata["base_model"] = name
    if isinstance(config.dataset.source, HubDataset):
        metadata["datasets"] = [config.dataset.source.name]
    return metadata | {"tags": ["language-model", kind, "lmft"]}


def describe_run(facts: CardFacts, name: str) -> str:
    """Return the body of the card of the run `name`."""
    config, components = facts.config, facts.components
    kind = "causal" if config.objective.target_shift else "masked"
    trained = "trained from scratch" if config.model.from_scratch else "fine-tuned"
    parts = [
        f"# {name}",
        f"A {kind} language model, {trained} with lmft. To reproduce it:",
        fence(facts.origin.command, "sh"),
        "## Results",
        describe_results(facts.result),
        f"![Training and validation loss by optimizer step]({CURVE})",
        "## Samples",
        "Excerpts of validation texts, and the model's answers before and after training.",
        describe_samples(facts.samples),
        "## Model and dataset",
        describe_components(config.model, config.dataset.name, facts.splits, components),
        "## Environment",
        describe_environment(facts.origin, components.hardware, facts.result["timing"]),
        details("The composed config", fence(_yaml(redact_all(facts.values)), "yaml")),
    ]
    if facts.origin.changes:
        parts.append(details("Uncommitted changes", fence(facts.origin.changes, "diff")))
    return "\n\n".join(parts) + "\n"


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None)


def describe_results(result: dict[str, Any]) -> str:
    """Return a table of losses: before training, best, last, test; and the full labels."""
    best = {split: result[split] for split in ("validation", "test") if result[split]}
    rows = [
        ("validation, before", 0, result["baseline"]),
        *((f"{split}, best", result["best_step"], losses) for split, losses in best.items()),
        ("validation, last", result["steps"], result["final"]),
    ]
    head = ("", "step", "loss, nats per target", "perplexity", "bits per byte", "targets")
    cells = [
        (
            label,
            f"{step:,}",
            f"{losses['loss']:.4f}",
            f"{losses['perplexity']:,.2f}",
            f"{losses['bits_per_byte']:.4f}" if "bits_per_byte" in losses else "",
            f"{losses['targets']:,}",
        )
        for label, step, losses in rows
    ]
    labels = "\n".join(
        f"{losses['label']}\n  evaluation fingerprint {losses['fingerprint']}"
        for losses in best.values()
    )
    return (
        f"{table(head, cells)}\n\nThe best step is the one with the lowest validation loss, step 0 "
        "aside; the checkpoint has its weights. In full, with 95 % intervals:\n\n"
        f"{fence(labels)}"
    )


def describe_samples(samples: dict[str, list[Sample]]) -> str:
    """Return the model's answers to the same texts before and after training."""
    blocks = []
    for before, after in zip(samples["before"], samples["after"], strict=True):
        texts = (before.prompt, before.answer, after.answer)
        prompt, first, second = (" ".join(text.split()) for text in texts)
        blocks.append(fence(f"{prompt}\n  before → {first}\n  after  → {second}"))
    return "\n\n".join(blocks)


def describe_components(
    model: ModelConfig, dataset: str, splits: dict[str, Split], components: Components
) -> str:
    """Return a table of the model's size and origin, and one of each split's size and digest."""
    weights = sum(weight.numel() for weight in components.network.model.parameters())
    rows = []
    for name, split in splits.items():
        stream = components.batches[name].blocks.stream
        rows.append((name, f"{len(stream.ends):,}", f"{len(stream.ids):,}", split.digest()))
    return "\n\n".join(
        [
            table(
                ("model", "weights", "vocabulary"),
                [(describe_origin(model), f"{weights:,}", f"{len(components.tokenizer):,}")],
            ),
            table((dataset, "documents", "tokens", "digest"), rows),
        ]
    )


def describe_origin(model: ModelConfig) -> str:
    """Return where the model's weights, or its architecture, come from."""
    if model.name is None:
        return f"new {(model.architecture or {}).get('model_type')}"
    commit = pinned_revision(model.name, model.revision)
    version = f"content {content_digest(model.name, model.revision)[:16]}"
    origin = f"{model.name}, {f'commit {commit}' if commit else version}"
    return f"architecture of {origin}" if model.from_scratch else origin


def describe_environment(origin: Origin, hardware: Hardware, timing: dict[str, float]) -> str:
    """Return a table of machine, versions and commit, and the time and memory used."""
    tags = origin.tags
    commit = tags.get("mlflow.source.git.commit", "not in a git repository")
    dirty = ", with uncommitted changes" if tags.get("git.dirty") == "true" else ""
    versions = {name.removeprefix("version."): tags[name] for name in tags if "version." in name}
    rows = [
        ("hardware", hardware.describe()),
        ("time", f"{timing['seconds']:,.0f} s"),
        ("training speed", f"{timing['tokens_per_second']:,.0f} tokens/s"),
        ("peak memory of the process", f"{timing['peak_memory_bytes'] / 1e6:,.0f} MB"),
        ("commit", commit + dirty),
        ("directory", tags["directory"]),
        ("python", tags["python"]),
        ("packages", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return table(("", ""), rows)


def draw_losses(losses: Mapping[str, np.ndarray], best_step: int) -> str:
    """Return an SVG of the loss by step, with the best step marked.

    Args:
        losses: step and nats per target (N, 2), by split, as `read_losses` returns them.
        best_step: of the lowest validation loss.
    """
    from matplotlib.ticker import MaxNLocator

    with new_figure((7, 3.5), layout=None) as (figure, (axes,)):
        axes.set_position((0.09, 0.14, 0.89, 0.83))
        axes.plot(*thin(losses["train"]), color=COLORS[0], alpha=0.35, label="training")
        axes.plot(
            *thin(losses["validation"]), "o-", color=COLORS[1], markersize=4, label="validation"
        )
        axes.axvline(best_step, color=GRAY, linewidth=0.8, linestyle=":", label="best")
        axes.set(xlabel="optimizer step", ylabel="loss, nats per target")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return as_svg(figure)
