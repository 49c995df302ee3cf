"""What of a run is published: weights, tokenizer, card and config, without this machine's paths."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lmft.config.compose import load_composed
from lmft.config.knobs import walk
from lmft.errors import UserError
from lmft.output.sanitize import redact
from lmft.runs.find_run import check_checkpoint, find_folder
from lmft.storage.atomic import read_json
from lmft.storage.hub import is_model_folder

CARD, CONFIG = "README.md", "lmft.yaml"  # their names in a repository
LOCATIONS = re.compile(
    r"dataset\.(train|validation|test)|model\.(name|tokenizer)|from_run|\w+_root"
)
# At least two names, not in a URL, after markup such as a closing tag or in a fraction.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w./:>~\\-])~?(?:/[\w.@+=\\-]+){2,}/?|(?<![\w./])~/[\w.@+=\\-]+/?"
)
FOLDER_IN_URI = re.compile(r"\b((?:sqlite|file):/{2,3})/?(?:[^\s/'\"<>]+/)+")
SAMPLES = re.compile(r"^## Samples\n.*?(?=^## )", re.M | re.S)
CHANGES = re.compile(r"^<details>\n<summary>Uncommitted changes.*?^</details>\n*", re.M | re.S)
DIRECTORY = re.compile(r"^\| directory \|.*\n", re.M)


@dataclass(frozen=True)
class CardOptions:
    """What only the user knows or decides of a published card."""

    license: str | None = None  # a name of the hub's, such as apache-2.0
    language: str | None = None  # a code, such as en
    samples: bool = False  # with its excerpts of validation texts


def find_weights(name: str, tracker_uri: str | None) -> Path:
    """Return the Hugging Face folder that `name` is, or the best weights of the run `name`.

    Raises:
        UserError: there is no such run, or it has not finished.
    """
    folder = Path(name).expanduser().absolute()
    if is_model_folder(folder):
        return folder
    folder = find_folder(name, tracker_uri)
    check_checkpoint(folder)
    return folder / "checkpoint"


def published_files(weights: Path, options: CardOptions) -> dict[str, Path | bytes]:
    """Return the files to publish, by their names in the repository.

    All files of the folder of the weights are sent: a model, or an adapter.

    Args:
        weights: the folder, such as a run's checkpoint/.
        options: for the card.
    """
    config = weights.parent / ".hydra" / "config.yaml"
    of_run = weights.name == "checkpoint" and config.is_file()
    tree = plain(load_composed(config)) if of_run else {}
    names = names_of_paths(tree, weights.parent)
    paths = [path for path in sorted(weights.iterdir()) if path.is_file()]
    files = {
        path.name: shorten_settings(path, names) for path in paths if not path.name.startswith(".")
    }
    metadata, body = read_card(weights)
    given = {"license": options.license, "language": options.language}
    metadata |= {key: value for key, value in given.items() if value is not None}
    if of_run:
        results = read_json(weights.parent / "result.json")
        metadata |= model_index(weights.parent.name, tree["dataset"]["name"], results, metadata)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        files[CONFIG] = redact(shorten(text, names)).encode()
    files[CARD] = write_card(metadata, body, options, names).encode()
    return dict(sorted(files.items()))


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain values; interpolations stay as they are written."""
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def names_of_paths(tree: Mapping[str, Any], run: Path) -> dict[str, str]:
    """Return what stands for each path of this machine that a config names, the longest first."""
    names = {str(run): run.name, str(Path.home()): "~"}
    for knob, value in walk(tree):
        knob = knob.partition("[")[0]
        if not isinstance(value, str):
            continue
        if knob == "tracker.uri" and "://" in value and not value.startswith("sqlite"):
            names[value] = "..."  # a server that others can't reach
        elif LOCATIONS.fullmatch(knob) and is_path(value, knob):
            names[value] = Path(value).name
    return dict(sorted(names.items(), key=lambda item: len(item[0]), reverse=True))


def is_path(value: str, knob: str) -> bool:
    """Return whether a location is a path, rather than owner/name on the hub."""
    if not knob.startswith("model.") or value.startswith((".", "/", "~")):
        return "/" in value
    return value.count("/") > 1 or Path(value).is_dir()


def shorten(text: str, names: Mapping[str, str]) -> str:
    """Return a text in which each path of this machine is its last name."""
    for path, name in names.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w-])", name.replace("\\", r"\\"), text)
    text = FOLDER_IN_URI.sub(r"\1", text)
    return ABSOLUTE_PATH.sub(lambda match: match[0].rstrip("/").rpartition("/")[2], text)


def shorten_settings(path: Path, names: Mapping[str, str]) -> Path | bytes:
    """Return a file; one of settings with paths in it as it is published."""
    if not path.name.endswith("config.json"):
        return path
    text = path.read_text()
    short = json.dumps(_shorten_values(json.loads(text), names), indent=2, ensure_ascii=False)
    return path if json.loads(short) == json.loads(text) else f"{short}\n".encode()


def _shorten_values(tree: Any, names: Mapping[str, str]) -> Any:
    if isinstance(tree, dict):
        return {key: _shorten_values(value, names) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_shorten_values(value, names) for value in tree]
    is_name = isinstance(tree, str) and (tree in names or tree.startswith(("/", "~/")))
    return shorten(tree, names) if is_name and "\n" not in tree else tree


def write_card(
    metadata: Mapping[str, Any], body: str, options: CardOptions, names: Mapping[str, str]
) -> str:
    """Return the card to publish: the hub's metadata, then what the run's own card says."""
    body = DIRECTORY.sub("", CHANGES.sub("", body))
    if not options.samples:
        body = SAMPLES.sub("", body)
    header = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return redact(shorten(f"---\n{header}---\n\n{body}", names))


def read_card(weights: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the body of a folder's card; both are empty if there is none.

    Raises:
        UserError: the metadata are not YAML.
    """
    path = weights / CARD
    text = path.read_text() if path.is_file() else ""
    start, _, rest = text.partition("---\n")
    if start or not rest:
        return {}, text
    header, _, body = rest.partition("\n---\n")
    try:
        metadata = yaml.safe_load(header)
    except yaml.YAMLError as error:
        raise UserError(f"{path} does not begin with YAML between two ---; fix it.") from error
    return dict(metadata or {}), body.lstrip("\n")


def model_index(
    name: str, dataset: str, results: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the hub's `model-index`: each split's perplexity and loss, with the label.

    Args:
        name: of the model.
        dataset: its name in the config.
        results: the content of result.json.
        metadata: of the run's card.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    hub_name = next(iter(metadata.get("datasets", [])), dataset)
    found = []
    for split in ("validation", "test"):
        if not (losses := results.get(split)):
            continue
        found += [
            EvalResult(
                task_type=str(metadata.get("pipeline_tag", "text-generation")),
                dataset_type=hub_name,
                dataset_name=dataset,
                dataset_split=split,
                metric_type=metric,
                metric_name=losses["label"],
                metric_value=losses[metric],
            )
            for metric in ("perplexity", "loss")
        ]
    return {"model-index": eval_results_to_model_index(name, found)}
