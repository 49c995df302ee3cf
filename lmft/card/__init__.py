"""The card of a run: all that a stranger needs to trust its numbers, and to reach them again."""

from dataclasses import dataclass
from typing import Any

import yaml

from lmft.card.curve import draw_losses, read_losses
from lmft.card.sections import (
    describe_materials,
    describe_numbers,
    describe_place,
    describe_samples,
)
from lmft.config import RunConfig
from lmft.dataset import Split
from lmft.dataset.sources import HubDataset
from lmft.files import write_text
from lmft.hub import locate
from lmft.markdown import fence, folded
from lmft.materials import Materials
from lmft.provenance import Origin
from lmft.runs import RunFolder
from lmft.samples import Sample
from lmft.secrets import redact, redact_all
from lmft.tracker import RunLog

CARD, CURVE = "card.md", "curve.svg"


@dataclass(frozen=True)
class Story:
    """What a run was, and what came of it."""

    config: RunConfig
    values: dict[str, Any]  # the same, as plain values
    origin: Origin
    splits: dict[str, Split]
    materials: Materials
    result: dict[str, Any]  # what result.json holds
    samples: dict[str, list[Sample]]  # before and after


def write_card(story: Story, folder: RunFolder, log: RunLog) -> None:
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
    task = "text-generation" if config.objective.ahead else "fill-mask"
    kind = "causal-lm" if config.objective.ahead else "masked-lm"
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    name = config.model.name
    if name and not config.model.from_scratch and locate(name, "model.name") is None:
        facts["base_model"] = name
    if isinstance(config.dataset.source, HubDataset):
        facts["datasets"] = [config.dataset.source.name]
    return facts | {"tags": ["language-model", kind, "lmft"]}


def describe_run(story: Story, name: str) -> str:
    """The card's body."""
    config, materials = story.config, story.materials
    task = "causal" if config.objective.ahead else "masked"
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
        describe_materials(config.model, config.dataset.name, story.splits, materials),
        "## Where it ran",
        describe_place(story.origin, materials.hardware, story.result["timing"]),
        folded("The composed config", fence(_yaml(redact_all(story.values)), "yaml")),
    ]
    if story.origin.changes:
        parts.append(
            folded("What the code had beyond that commit", fence(story.origin.changes, "diff"))
        )
    return "\n\n".join(parts) + "\n"


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None)
