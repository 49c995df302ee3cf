"""`lmft evaluate`: score a finished run's best weights, or any model as it is."""

from argparse import Namespace
from contextlib import closing
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lmft.config.build import read_config
from lmft.config.knobs import flatten
from lmft.config.schema import RunConfig
from lmft.dataset.splits import Split, open_splits
from lmft.errors import UserError
from lmft.evaluation.result import Assessment, write_sums
from lmft.evaluation.scoring import Scores
from lmft.output.terminal import Terminal
from lmft.runs.provenance import describe_source
from lmft.runs.run_dir import RunFolder, create_run_folder
from lmft.runs.run_id import name_folder
from lmft.storage.hashing import digest
from lmft.storage.hub import content_digest
from lmft.storage.lock import run_lock
from lmft.tracker.run_log import Facts, Record, read_facts
from lmft.trainer.components import Components, build_components, compose_model, find_tokenizer
from lmft.trainer.evaluate import assess, find_conditions, score, windows_of

RESULTS = "evaluations.json"  # in the run's folder: every result, by a hash of what it depends on


def main(arguments: Namespace) -> None:
    """Run the command; it scores in fp32 unless told otherwise."""
    words = arguments.words
    if not any(word.startswith("hardware.precision=") for word in words):
        words = [*words, "hardware.precision=fp32"]
    composed, run = compose_model(arguments.run, words)
    config, values = read_config(composed)
    files = {"config.yaml": OmegaConf.to_yaml(composed)}
    evaluate_model(config, values, files, run, Terminal())


def evaluate_model(
    config: RunConfig,
    values: dict[str, Any],
    composed: dict[str, str],
    run: RunFolder | None,
    terminal: Terminal,
) -> dict[str, Any]:
    """Score one split, keep the result beside the run and in MLflow, and return it.

    A stored result of the same weights under the same conditions is only printed.

    Args:
        config: what to score; where there is a run, its model is the run's best checkpoint.
        values: the same as plain values.
        composed: Hydra's files about it, for the folder of a model that has none.
        run: the run whose weights these are; None: a model as it is, in a run of its own.
        terminal: where results are printed.

    Raises:
        UserError: something in the config can't be done.
    """
    if config.model.from_scratch:
        raise UserError("lmft evaluate needs trained weights; add run=FOLDER, or model=gpt2.")
    split = choose_split(config)
    conditions = find_conditions(split, config, values, find_tokenizer(config, {}))
    folder = run or name_folder(config, {**values, "trainer": {}}, {split.name: split})
    weights = content_digest(str(config.model.name), config.model.revision)
    wanted = (conditions.fingerprint, str(values["hardware"]["precision"]))
    key = digest([weights, *wanted])[:16]
    stored = folder.read_json(RESULTS)
    trained = folder.read_json("result.json").get(split.name) or {}
    for result in (stored.get(key, {}), trained):
        if (result.get("fingerprint"), result.get("precision")) == wanted:
            terminal.print(f"{result['label']}  (known already)")
            terminal.show_facts(result)
            return dict(result)
    components = build_components(config, {split.name: split})
    config.tracker.check()
    assessed, spread = score_draws(split, config, values, components, terminal)
    create_run_folder(folder, composed)
    result = assessed.result.as_dict() | spread
    write_sums(folder.path, assessed)
    folder.write_json(RESULTS, stored | {key: result})
    track(config, values, folder, split, assessed, spread)
    terminal.print(assessed.result.label)
    terminal.show_facts(result)
    return result


def choose_split(config: RunConfig) -> Split:
    """Return the split to score: the one named, else test, else validation; no other is opened."""
    dataset = config.dataset
    held_out = dataset.validation is None and dataset.train is not None
    exists = {
        "test": dataset.test is not None,
        "validation": dataset.validation is not None or held_out,
        "train": dataset.train is not None,
    }
    name = config.evaluation.split or next((name for name in exists if exists[name]), "test")
    if not exists[name]:
        raise UserError(f"dataset.{name} has no value; set it, or choose another evaluation.split.")
    return open_splits(dataset, only=(name,))[name]


def score_draws(
    split: Split,
    config: RunConfig,
    values: dict[str, Any],
    components: Components,
    terminal: Terminal,
) -> tuple[Assessment, dict[str, float]]:
    """Return the assessment over all draws of masks, and how much the loss differs between them."""
    one_draw = config.objective.target_shift or config.evaluation.pseudo
    draws = 1 if one_draw else config.evaluation.mask_draws
    windows = len(windows_of(split.name, config, components))
    with terminal.progress(0) as bars, bars.evaluation(split.name, windows * draws) as advance:
        scores = [score(split.name, config, components, draw, advance) for draw in range(draws)]
    all_draws = Scores(
        *(np.concatenate([getattr(s, name) for s in scores]) for name in vars(scores[0]))
    )
    assessed = assess(split, all_draws, config, values, components)
    if draws == 1:
        return assessed, {}
    losses = [draw.loss.mean for draw in scores]
    return assessed, {"mask_draws": float(draws), "loss_deviation": float(np.std(losses, ddof=1))}


def is_own(folder: RunFolder, result: dict[str, Any]) -> bool:
    """Return whether the run scored this split in the same way, or is itself only an evaluation."""
    trained = folder.read_json("result.json")
    if not trained:
        return True
    own = trained.get(result["conditions"]["split"]) or {}
    return all(own.get(name) == result[name] for name in ("fingerprint", "precision"))


def track(
    config: RunConfig,
    values: dict[str, Any],
    folder: RunFolder,
    split: Split,
    assessed: Assessment,
    spread: dict[str, float],
) -> None:
    """Log to the run that trained the weights, at their step; else to a run of its own."""
    name = split.name
    if not is_own(folder, assessed.result.as_dict()):
        name = f"{config.dataset.name}-{assessed.result.conditions.fingerprint[:8]}/{name}"
    metrics = {
        f"{name}/{key}": value for key, value in (assessed.result.as_metrics() | spread).items()
    }
    tags = {f"{name}/{key}": value for key, value in assessed.result.as_tags().items()}
    step = int(folder.read_json("result.json").get("best_step", 0))
    with run_lock(folder.path, wait=True), closing(Record(folder.path)) as record:
        if not read_facts(folder.path):
            corpus = config.dataset.name, split.digest()
            facts = Facts(
                folder.path.name, folder.key, flatten(values), *corpus, assessed.result.precision
            )
            tags_of_run = {"lmft.key": folder.key, "lmft.folder": str(folder.path)}
            record.start(facts, describe_source("lmft evaluate") | tags_of_run)
        with config.tracker.update_run(record) as log:
            log.log_metrics(metrics, step)
            log.set_tags(tags)
