"""The card of a run: all that a stranger needs to trust its numbers, and to reach them again."""

from dataclasses import dataclass
from typing import Any

import yaml

from lmft.config.schema import ModelConfig, RunConfig
from lmft.dataset.sources import HubDataset
from lmft.dataset.splits import Split
from lmft.evaluation.generation import Sample
from lmft.hardware.device import Hardware
from lmft.output.markdown import fence, folded, table
from lmft.output.sanitize import redact, redact_all
from lmft.runs.provenance import Origin
from lmft.runs.run_dir import RunFolder
from lmft.storage.atomic import write_text
from lmft.storage.hub import content_digest, locate, pinned_revision
from lmft.tracker.protocol import RunLog
from lmft.trainer.components import Components
from lmft.trainer.loss_curve import draw_losses, read_losses

CARD, CURVE = "card.md", "curve.svg"


@dataclass(frozen=True)
class CardFacts:
    """What a run was, and what came of it."""

    config: RunConfig
    values: dict[str, Any]  # the same, as plain values
    origin: Origin
    splits: dict[str, Split]
    components: Components
    result: dict[str, Any]  # what result.json holds
    samples: dict[str, list[Sample]]  # before and after


def write_card(story: CardFacts, folder: RunFolder, log: RunLog) -> None:
    """Put the card and its picture into the run's folder, its checkpoint and the tracker."""
    body = redact(describe_run(story, folder.path.name))
    curve = draw_losses(read_losses(folder.path), story.result["best_step"])
    readme = f"---\n{_yaml(model_facts(story.config))}---\n\n{body}"
    for path, text in {
        folder.path / CARD: body,
        folder.path / CURVE: curve,
        folder.checkpoint / "README.md": readme,
        folder.checkpoint / CURVE: curve,
    }.items():
        write_text(path, text)
    log.text(body, CARD)
    log.text(curve, CURVE)


def model_facts(config: RunConfig) -> dict[str, Any]:
    """What the hub asks of a model card's front matter; the license is the owner's to choose."""
    task = "text-generation" if config.objective.target_shift else "fill-mask"
    kind = "causal-lm" if config.objective.target_shift else "masked-lm"
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    name = config.model.name
    if name and not config.model.from_scratch and locate(name, "model.name") is None:
        facts["base_model"] = name
    if isinstance(config.dataset.source, HubDataset):
        facts["datasets"] = [config.dataset.source.name]
    return facts | {"tags": ["language-model", kind, "lmft"]}


def describe_run(story: CardFacts, name: str) -> str:
    """The card's body."""
    config, components = story.config, story.components
    task = "causal" if config.objective.target_shift else "masked"
    new = "trained from scratch" if config.model.from_scratch else "fine-tuned"
    parts = [
        f"# {name}",
        f"A {task} language model, {new} with lmft. To make it again:",
        fence(story.origin.command, "sh"),
        "## Numbers",
        describe_numbers(story.result),
        f"![Training and validation loss by optimizer step]({CURVE})",
        "## Samples",
        "Pieces of validation texts, and what the model made of them before and after training.",
        describe_samples(story.samples),
        "## Model and corpus",
        describe_components(config.model, config.dataset.name, story.splits, components),
        "## Where it ran",
        describe_place(story.origin, components.hardware, story.result["timing"]),
        folded("The composed config", fence(_yaml(redact_all(story.values)), "yaml")),
    ]
    if story.origin.changes:
        parts.append(
            folded("What the code had beyond that commit", fence(story.origin.changes, "diff"))
        )
    return "\n\n".join(parts) + "\n"


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None)


def describe_numbers(result: dict[str, Any]) -> str:
    """Losses before, best, last and on the test split; below them the full labels."""
    best = {split: result[split] for split in ("validation", "test") if result[split]}
    rows = [
        ("validation, before", 0, result["baseline"]),
        *((f"{split}, best", result["best_step"], found) for split, found in best.items()),
        ("validation, last", result["steps"], result["final"]),
    ]
    head = ("", "step", "loss, nats per target", "perplexity", "bits per byte", "targets")
    cells = [
        (
            label,
            f"{step:,}",
            f"{found['loss']:.4f}",
            f"{found['perplexity']:,.2f}",
            f"{found['bits_per_byte']:.4f}" if "bits_per_byte" in found else "",
            f"{found['targets']:,}",
        )
        for label, step, found in rows
    ]
    labels = "\n".join(
        f"{found['label']}\n  evaluation fingerprint {found['fingerprint']}"
        for found in best.values()
    )
    return (
        f"{table(head, cells)}\n\nBest is the lowest validation loss after step 0; the checkpoint "
        f"has its weights. In full, with 95 % intervals:\n\n{fence(labels)}"
    )


def describe_samples(samples: dict[str, list[Sample]]) -> str:
    """What the model made of the same texts before and after."""
    blocks = []
    for before, after in zip(samples["before"], samples["after"], strict=True):
        texts = (before.prompt, before.answer, after.answer)
        prompt, first, second = (" ".join(text.split()) for text in texts)
        blocks.append(fence(f"{prompt}\n  before → {first}\n  after  → {second}"))
    return "\n\n".join(blocks)


def describe_components(
    model: ModelConfig, corpus: str, splits: dict[str, Split], components: Components
) -> str:
    """The model's size and origin; each split's size and digest."""
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
            table((corpus, "documents", "tokens", "digest"), rows),
        ]
    )


def describe_origin(model: ModelConfig) -> str:
    """Where the model's weights, or its architecture, come from."""
    if model.name is None:
        return f"new {(model.architecture or {}).get('model_type')}"
    commit = pinned_revision(model.name, model.revision)
    version = f"content {content_digest(model.name, model.revision)[:16]}"
    origin = f"{model.name}, {f'commit {commit}' if commit else version}"
    return f"architecture of {origin}" if model.from_scratch else origin


def describe_place(origin: Origin, hardware: Hardware, timing: dict[str, float]) -> str:
    """Machine, versions, commit, and what time and memory it took."""
    tags = origin.tags
    commit = tags.get("mlflow.source.git.commit", "not in a git repository")
    dirty = ", with changes" if tags.get("git.dirty") == "true" else ""
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
