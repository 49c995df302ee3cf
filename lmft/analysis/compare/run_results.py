"""A run as a comparison sees it: its knobs, its number, and the sums behind the number."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmft.config.compose import load_composed
from lmft.errors import UserError
from lmft.evaluation.result import Sums, read_sums, sums_path

SPLITS = ("test", "validation")

UNITS = ("document", "block")


@dataclass(frozen=True)
class Run:
    """One run, and one of its results."""

    folder: Path
    knobs: dict[str, Any]  # by full name: those that may decide a number, or its speed
    result: dict[str, Any]  # as lmft.result.Result.as_dict tells it
    sums: dict[str, Sums] = field(repr=False, compare=False)  # document, block
    letter: str = ""  # its short name in one comparison

    @property
    def conditions(self) -> dict[str, Any]:
        """What its result is comparable by."""
        return dict(self.result["conditions"])

    @property
    def settings(self) -> str:
        """Equal just where two runs differ in nothing but the seed."""
        left_out = {"seed", *ONLY_SPEED}
        kept = {name: value for name, value in self.knobs.items() if name not in left_out}
        return json.dumps(kept, sort_keys=True, default=str)


def load_runs(folders: list[Path], split: str | None) -> list[Run]:
    """The runs kept in `folders`, each with the result that most of them can be compared by.

    Raises:
        UserError: one has not finished, or has no result on the split.
    """
    kept = {folder: read_results(folder) for folder in folders}
    name = choose_split(kept, split)
    of_split = {
        folder: [found for found in results if found["conditions"]["split"] == name]
        for folder, results in kept.items()
    }
    chosen = choose_results(list(of_split.values()))
    return [
        Run(folder, read_knobs(folder), result, _sums(folder, result))
        for folder, result in zip(folders, chosen, strict=True)
    ]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results kept beside a run, its own first."""
    own, scored = (_read_json(folder / name) for name in ("result.json", "evaluations.json"))
    if not own and not scored:
        raise UserError(
            f"{folder} holds no finished run; train it to its end, or leave it out of the list."
        )
    results = [own[split] for split in SPLITS if own.get(split)] + list(scored.values())
    usable = [result for result in results if _has_sums(folder, result)]
    if not usable:
        raise UserError(
            f"{folder} has lost the sums behind its results; lmft evaluate run={folder} "
            "makes them again."
        )
    return usable


def choose_split(kept: dict[Path, list[dict[str, Any]]], asked: str | None) -> str:
    """The split asked for, else the first of test and validation that all have a result on."""
    there = {
        folder: {found["conditions"]["split"] for found in results}
        for folder, results in kept.items()
    }
    for name in [asked] if asked else SPLITS:
        if all(name in splits for splits in there.values()):
            return name
    name = asked or SPLITS[-1]
    without = next(folder for folder, splits in there.items() if name not in splits)
    raise UserError(
        f"{without} has no {name} result, but {' and '.join(sorted(there[without]))}; "
        f"lmft evaluate run={without} evaluation.split={name} makes one."
    )


def choose_results(kept: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One result a run: under conditions, and in a precision, that all share if there are any."""
    chosen = kept
    for shared in (("fingerprint",), ("fingerprint", "precision")):
        keys = [{tuple(found[name] for name in shared) for found in run} for run in chosen]
        common = set.intersection(*keys)
        if common:
            own = [tuple(run[0][name] for name in shared) for run in chosen]
            best = max(sorted(common), key=lambda key: (own.count(key), "fp32" in key))
            chosen = [
                [found for found in run if tuple(found[name] for name in shared) == best]
                for run in chosen
            ]
    return [run[0] for run in chosen]


def _has_sums(folder: Path, result: dict[str, Any]) -> bool:
    return sums_path(folder, result["fingerprint"], result["precision"]).exists()


def _sums(folder: Path, result: dict[str, Any]) -> dict[str, Sums]:
    return {unit: read_sums(folder, result, unit) for unit in UNITS}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


NOT_COMPARED = (  # where things lie, and what lmft evaluate was asked
    "tracker",
    "run_root",
    "cache_root",
    "debug",
    "evaluation.split",
    "evaluation.mask_draws",
    "evaluation.pseudo",
)

ONLY_SPEED = ("hardware.device", "hardware.micro_batch_size", "hardware.compile")

OF_TRAINING = ("trainer.", "optimizer", "seed", "hardware.")  # mean nothing without it

TRAINING = "training"  # the knob that says whether a run trained: yes or no

MISSING = object()  # unlike any value


def read_knobs(folder: Path) -> dict[str, Any]:
    """The composed config by full names, without what says only where things lie."""
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} has no .hydra/config.yaml, so it is no run's folder; check it.")
    values: dict[str, Any] = OmegaConf.to_container(load_composed(path), resolve=True)  # type: ignore[assignment]
    trained = (folder / "result.json").exists()
    dropped = NOT_COMPARED if trained else (*NOT_COMPARED, *OF_TRAINING)
    knobs = {name: v for name, v in by_knob(values).items() if not name.startswith(dropped)}
    return knobs | {TRAINING: "yes" if trained else "no"}


def by_knob(tree: dict[str, Any]) -> dict[str, Any]:
    """{"model": {"config": {"n_layer": 4}}} as {"model.config": {"n_layer": 4}}, as they are set.

    A group's `_target_` goes by the name of the group: {"optimizer": "AdamW"}.
    """
    knobs = {}
    for group, values in tree.items():
        if not isinstance(values, dict):
            knobs[group] = values
            continue
        for name, value in values.items():
            if name == "_target_":
                knobs[group] = str(value).rpartition(".")[2]
            else:
                knobs[f"{group}.{name}"] = value
    return knobs


def differing_knobs(runs: list[dict[str, Any]]) -> list[str]:
    """The knobs that have not the same value in all runs; of training, in all that were trained.

    Each run is given by its knobs.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    trained = [run for run in runs if run[TRAINING] == "yes"]
    differing = []
    for name in names:
        asked = trained if name.startswith(OF_TRAINING) else runs
        if len({repr(run.get(name, MISSING)) for run in asked}) > 1:
            differing.append(name)
    return differing
