"""The card's parts, as Markdown."""

from typing import Any

from lmft.config import ModelConfig
from lmft.dataset import Split
from lmft.hardware import Hardware
from lmft.hub import content_digest, pinned_revision
from lmft.markdown import fence, table
from lmft.materials import Materials
from lmft.provenance import Origin
from lmft.samples import Sample


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


def describe_materials(
    model: ModelConfig, corpus: str, splits: dict[str, Split], materials: Materials
) -> str:
    """The model's size and origin; each split's size and digest."""
    weights = sum(weight.numel() for weight in materials.network.model.parameters())
    rows = []
    for name, split in splits.items():
        stream = materials.batches[name].blocks.stream
        rows.append((name, f"{len(stream.ends):,}", f"{len(stream.ids):,}", split.digest()))
    return "\n\n".join(
        [
            table(
                ("model", "weights", "vocabulary"),
                [(describe_origin(model), f"{weights:,}", f"{len(materials.tokenizer):,}")],
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
