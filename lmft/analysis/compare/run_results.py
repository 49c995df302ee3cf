"""Load what a comparison needs of a run: its knobs, one result, and the sums behind it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmft.config.compose import load_composed
from lmft.config.knob_metadata import Decides
from lmft.config.knobs import is_unused
from lmft.config.schema import decides
from lmft.errors import UserError
from lmft.evaluation.result import FORMER_CONDITIONS
from lmft.evaluation.sums import Sums, read_sums, sums_path
from lmft.storage.atomic import read_json

SPLITS = ("validation", "test")  # by which the best run is chosen: the first that all have
UNITS = ("document", "block")


@dataclass(frozen=True)
class ScoredRun:
    """One run, and one of its results."""

    folder: Path
    knobs: dict[str, Any]  # by full name: those that decide a number or speed
    result: dict[str, Any]  # as Result.as_dict returns it
    sums: dict[str, Sums] = field(repr=False, compare=False)  # by unit: document, block
    test: dict[str, Any] | None = None  # shown beside `result`, if that is not of test
    letter: str = ""  # its short name in the comparison

    @property
    def conditions(self) -> dict[str, Any]:
        """What another result must have in common with this one to be comparable."""
        return FORMER_CONDITIONS | dict(self.result["conditions"])

    @property
    def settings(self) -> str:
        """A text that is equal for two runs that differ in nothing but the seed, and speed."""
        kept = {
            name: value
            for name, value in self.knobs.items()
            if name != "seed" and decides(name) is not Decides.speed
        }
        return json.dumps(kept, sort_keys=True, default=str)


def load_runs(folders: list[Path], split: str | None) -> list[ScoredRun]:
    """Load the runs in `folders`, each with the result that makes most of them comparable.

    Each has its test result too, if there is one and the split is not test.

    Raises:
        UserError: a run has not finished, or has no result on the split.
    """
    results = {folder: read_results(folder) for folder in folders}
    name = choose_split(results, split)
    chosen = results_on(name, results)
    tests = {} if name == "test" else results_on("test", results)
    return [
        ScoredRun(
            folder,
            read_compared_knobs(folder),
            chosen[folder],
            _read_sums(folder, chosen[folder]),
            tests.get(folder),
        )
        for folder in folders
    ]


def results_on(split: str, results: dict[Path, list[dict[str, Any]]]) -> dict[Path, dict[str, Any]]:
    """Return one result on the split of each run that has any."""
    on_split = {
        folder: [result for result in of_run if result["conditions"]["split"] == split]
        for folder, of_run in results.items()
    }
    found = {folder: of_run for folder, of_run in on_split.items() if of_run}
    return dict(zip(found, choose_results(list(found.values())), strict=True)) if found else {}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return all results in a run's folder, those of its training first.

    Raises:
        UserError: there are none.
    """
    own, evaluated = (read_json(folder / name) for name in ("result.json", "evaluations.json"))
    if not own and not evaluated:
        raise UserError(
            f"{folder} holds no finished run; train it to its end, or leave it out of the list."
        )
    results = [own[split] for split in SPLITS if own.get(split)] + list(evaluated.values())
    usable = [result for result in results if _has_sums(folder, result)]
    if not usable:
        raise UserError(
            f"{folder} has lost the sums behind its results; lmft evaluate run={folder} "
            "recomputes them."
        )
    return usable


def choose_split(results: dict[Path, list[dict[str, Any]]], split: str | None) -> str:
    """Return `split`; if it is None, validation, or test if not all runs have a validation result.

    Raises:
        UserError: a run has no result on it.
    """
    splits = {
        folder: {result["conditions"]["split"] for result in of_run}
        for folder, of_run in results.items()
    }
    for name in [split] if split else SPLITS:
        if all(name in of_run for of_run in splits.values()):
            return name
    name = split or SPLITS[0]
    without = next(folder for folder, of_run in splits.items() if name not in of_run)
    raise UserError(
        f"{without} has no {name} result, but {' and '.join(sorted(splits[without]))}; "
        f"lmft evaluate run={without} evaluation.split={name} computes one."
    )


def choose_results(results: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one result per run, with the same conditions, and then precision, if all have some.

    Among several that all runs have in common, prefer the one that most runs list first.
    """
    chosen = results
    for names in (("fingerprint",), ("fingerprint", "precision")):
        keys = [{tuple(result[name] for name in names) for result in of_run} for of_run in chosen]
        common = set.intersection(*keys)
        if common:
            first = [tuple(of_run[0][name] for name in names) for of_run in chosen]
            best = max(sorted(common), key=lambda key: (first.count(key), "fp32" in key))
            chosen = [
                [result for result in of_run if tuple(result[name] for name in names) == best]
                for of_run in chosen
            ]
    return [of_run[0] for of_run in chosen]


def _has_sums(folder: Path, result: dict[str, Any]) -> bool:
    return sums_path(folder, result["fingerprint"], result["precision"]).exists()


def _read_sums(folder: Path, result: dict[str, Any]) -> dict[str, Sums]:
    return {unit: read_sums(folder, result, unit) for unit in UNITS}


# Knobs without effect on evaluation.
OF_TRAINING = ("adapter.", "trainer.", "optimizer", "seed", "hardware.")
TRAINING = "training"  # an additional knob: whether the run was trained, yes or no
MISSING = object()  # differs from every value


def read_compared_knobs(folder: Path) -> dict[str, Any]:
    """Return the knobs of a run that can make it differ from another one, by full name.

    Raises:
        UserError: the folder has no config.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        raise UserError(
            f"{folder} has no .hydra/config.yaml, so it is not a run's folder; check the path."
        )
    values: dict[str, Any] = OmegaConf.to_container(load_composed(path), resolve=True)  # type: ignore[assignment]
    trained = (folder / "result.json").exists()
    knobs = {
        name: value
        for name, value in flatten_groups(values).items()
        if is_compared(name)
        and not is_unused(name, value)
        and (trained or not name.startswith(OF_TRAINING))
    }
    return knobs | {TRAINING: "yes" if trained else "no"}


def is_compared(name: str) -> bool:
    """Return whether a knob can make two runs differ; `dataset.source` can, by what it reads."""
    return name == "dataset.source" or decides(name) in (Decides.numbers, Decides.speed)


def flatten_groups(tree: dict[str, Any]) -> dict[str, Any]:
    """Turn {"model": {"config": {"n_layer": 4}}} into {"model.config": {"n_layer": 4}}.

    Only groups are flattened, unlike in `lmft.config.knobs.flatten`: a knob that is a mapping stays
    one. A group's `_target_` is named like the group: {"optimizer": "AdamW"}.
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
    """Return the knobs whose value is not the same in all runs.

    Knobs of training are compared only among runs that were trained.

    Args:
        runs: the knobs of each run.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    trained = [run for run in runs if run[TRAINING] == "yes"]
    differing = []
    for name in names:
        compared = trained if name.startswith(OF_TRAINING) else runs
        if len({repr(run.get(name, MISSING)) for run in compared}) > 1:
            differing.append(name)
    return differing
