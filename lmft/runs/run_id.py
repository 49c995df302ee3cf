"""The run key: a hash of everything that decides a run's numbers; folders are named after it."""

import re
from pathlib import Path
from typing import Any

from lmft.config.knob_metadata import Decides
from lmft.config.model_knobs import CORPUS, ModelConfig
from lmft.config.schema import FORMERLY, decides, is_as_before
from lmft.dataset.block_rule import describe_rules
from lmft.dataset.split import Split
from lmft.runs.source_run import find_state, state_digest
from lmft.storage.hub import content_digest

# Increased by each commit that changes losses, so that older runs get other keys.
NUMERICS = 6

# Not in the key: a run that this value stops has no result, and any other run is unaffected.
IGNORED = "trainer.on_nonfinite=stop"
LONGEST_NAME = 120  # characters of a folder's name; file systems allow 255 bytes


def safe_name(name: str) -> str:
    """Turn any `name` into a single component of a path, short enough to add a suffix."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:LONGEST_NAME]


def model_label(config: ModelConfig) -> str:
    """Return the model's name, for display."""
    return config.label or Path(str(config.name)).name


def key_inputs(
    model: ModelConfig, values: dict[str, Any], splits: dict[str, Split]
) -> dict[str, Any]:
    """Return everything that decides a run's numbers, and nothing else: the run key hashes this.

    Paths are replaced by digests of their content, hub models by commits. Knobs of location and
    speed are left out. The precision is as configured, so `auto` is a value of its own.
    """
    weights = None if model.name is None else content_digest(model.name, model.revision)
    tokenizer: Any = model.tokenizer
    if model.tokenizer == CORPUS:
        tokenizer = [CORPUS, model.vocab_size]
    elif model.tokenizer is not None:
        tokenizer = content_digest(model.tokenizer, model.revision, "model.tokenizer")
    state = find_state(values["from_run"])
    return {
        "dataset": {name: split.digest() for name, split in splits.items()},
        **_examples(splits),
        **_blocks(values["dataset"], splits),
        "separator": values["dataset"]["separator"],
        "block_size": values["dataset"]["block_size"],
        "model": [weights, tokenizer, model.architecture, model.from_scratch, model.dropout],
        "model.config": model.config,
        **({"model.freeze": model.freeze} if model.freeze else {}),
        **({} if is_as_before("adapter", values["adapter"]) else {"adapter": values["adapter"]}),
        **({} if state is None else {"state": state_digest(state)}),
        "objective": values["objective"],
        "optimizer": values["optimizer"],
        "trainer": _numbers_of("trainer", values),
        "evaluation": _numbers_of("evaluation", values),
        "seed": values["seed"],
        **{
            knob: values["hardware"][knob]
            for knob in ("precision", "deterministic")
            if not is_as_before(f"hardware.{knob}", values["hardware"].get(knob, True))
        },
        "numerics": NUMERICS,
    }


def _numbers_of(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs of a group that decide numbers, where runs of before had another value."""
    return {
        knob: value
        for knob, value in values[group].items()
        if decides(f"{group}.{knob}") is Decides.numbers
        and not is_as_before(f"{group}.{knob}", value)
        and f"{group}.{knob}={value}" != IGNORED
    }


def _blocks(knobs: dict[str, Any], splits: dict[str, Split]) -> dict[str, Any]:
    """Return how documents become blocks, where a knob says something else than auto means."""
    rules = describe_rules(knobs, splits)
    return {"blocks": rules} if rules else {}


def _examples(splits: dict[str, Split]) -> dict[str, Any]:
    """Return what is learnt and which template renders chats, where runs of before do not tell."""
    learnt = {name: split.learn.value for name, split in splits.items()}
    templates = {name: split.chat_template for name, split in splits.items()}
    key: dict[str, Any] = {}
    if set(learnt.values()) - {FORMERLY["dataset.learn"]}:
        key["learn"] = learnt
    if any(templates.values()):  # the tokenizer's own one is part of the tokenizer
        key["chat_template"] = templates
    return key
