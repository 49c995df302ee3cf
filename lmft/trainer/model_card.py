"""The model card of a run: its numbers, and what is needed to reproduce them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmft.adapter.adapter_files import is_adapted
from lmft.config.model_knobs import ModelConfig
from lmft.config.schema import RunConfig
from lmft.dataset.sources import HubDataset
from lmft.evaluation.generation import Sample
from lmft.hardware.device import Hardware
from lmft.output.markdown import details, fence, table
from lmft.output.plots import as_svg
from lmft.output.sanitize import redact, redact_all
from lmft.runs.curve import loss_figure
from lmft.runs.provenance import Origin
from lmft.runs.publication import read_card
from lmft.runs.run import Run
from lmft.runs.source_run import read_source
from lmft.storage.atomic import write_text
from lmft.storage.hub import content_digest, find_base, find_local_folder, pinned_revision
from lmft.tracker.protocol import RunLog
from lmft.trainer.components import Components

CARD, CURVE = "card.md", "curve.svg"
CARD_IN_FOLDER = "README.md"  # in that of the model


@dataclass(frozen=True)
class CardFacts:
    """What the card of a finished run is written from."""

    run: Run
    components: Components
    result: dict[str, Any]  # the content of result.json
    samples: dict[str, list[Sample]]  # before and after training


def write_card(facts: CardFacts, log: RunLog) -> None:
    """Write the card and its loss curve to the run's folder, its checkpoint and the tracker."""
    run, body = facts.run, redact(describe_run(facts))
    curve = as_svg(loss_figure(run.folder, facts.result["best_step"]))
    readme = f"---\n{_yaml(card_metadata(run.config))}---\n\n{body}"
    for path, text in {
        run.folder / CARD: body,
        run.folder / CURVE: curve,
        run.checkpoint / CARD_IN_FOLDER: readme,
        run.checkpoint / CURVE: curve,
    }.items():
        write_text(path, text)
    log.log_text(body, CARD)
    log.log_text(curve, CURVE)


def card_metadata(config: RunConfig) -> dict[str, Any]:
    """Return the metadata of a model card on the Hugging Face hub, except the license."""
    objective, name = config.objective, config.model.name
    saved = None if name is None else find_base(name)
    is_adapter = config.adapter.is_on or saved is not None
    kind = "causal-lm" if objective.is_causal else "masked-lm"
    metadata: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": objective.pipeline_tag,
    }
    if saved:
        name = saved[0]
    elif name is not None and config.from_run is not None:  # the card there names the hub's model
        name = read_card(Path(name))[0].get("base_model")
    if name and not config.model.from_scratch and find_local_folder(name, "model.name") is None:
        metadata["base_model"] = name
    if isinstance(config.dataset.source, HubDataset):
        metadata["datasets"] = [config.dataset.source.name]
    return metadata | {"tags": ["language-model", kind, "lmft"]}


def describe_run(facts: CardFacts) -> str:
    """Return the body of the run's card."""
    run, config, components = facts.run, facts.run.config, facts.components
    kind = "causal" if config.objective.is_causal else "masked"
    trained = "trained from scratch" if config.model.from_scratch else "fine-tuned"
    what = "An adapter of a" if is_adapted(components.network.model) else "A"
    parts = [
        f"# {run.folder.name}",
        f"{what} {kind} language model, {trained} with lmft.{describe_start(run)} To reproduce it:",
        fence(run.origin.command, "sh"),
        "## Results",
        describe_results(facts.result),
        f"![Training and validation loss by optimizer step]({CURVE})",
        "## Samples",
        "Excerpts of validation texts, and the model's answers before and after training.",
        describe_samples(facts.samples),
        "## Model and dataset",
        describe_components(run, components),
        "## Environment",
        describe_environment(run.origin, components.hardware, facts.result["timing"]),
        details("The composed config", fence(_yaml(redact_all(run.values)), "yaml")),
    ]
    if run.origin.changes:
        parts.append(details("Uncommitted changes", fence(run.origin.changes, "diff")))
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


def describe_components(run: Run, components: Components) -> str:
    """Return a table of the model's size and origin, and one of each split's size and digest."""
    model, dataset = run.config.model, run.config.dataset.name
    weights = sum(weight.numel() for weight in components.network.model.parameters())
    rows = []
    for name, split in run.splits.items():
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


def describe_start(run: Run) -> str:
    """Return a sentence on the run that this one continues; empty if there is none."""
    source = read_source(run.folder)
    if source is None:
        return ""
    return f" It continues {source.run} (run key {source.key[:10]}) from its {source.describe()}."


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
    device_bytes = timing.get("peak_device_memory_bytes")  # on a GPU
    device_memory = (
        [("peak memory of the GPU", f"{device_bytes / 1e6:,.0f} MB")] if device_bytes else []
    )
    rows = [
        ("hardware", hardware.describe()),
        ("time", f"{timing['seconds']:,.0f} s"),
        ("training speed", f"{timing['tokens_per_second']:,.0f} tokens/s"),
        ("peak memory of the process", f"{timing['peak_memory_bytes'] / 1e6:,.0f} MB"),
        *device_memory,
        ("commit", commit + dirty),
        ("directory", tags["directory"]),
        ("python", tags["python"]),
        ("packages", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return table(("", ""), rows)
