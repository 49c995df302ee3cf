"""`lmft new experiment`: write overrides into a commented file in the user's own folder."""

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from lmft.config import CONF
from lmft.config.build import check_types
from lmft.config.checked_files import EXPERIMENT
from lmft.config.comments import choice_comment, knob_comments
from lmft.config.compose import CONFIG_DIR, compose, compose_run, split_config_dirs
from lmft.config.groups import GLOBAL, choices_of
from lmft.config.quoting import quote_texts
from lmft.config.ranges import RANGES
from lmft.errors import UserError, did_you_mean, writable
from lmft.output.sanitize import redact, strip_control
from lmft.storage.atomic import write_text

NAME = re.compile(r"(?!(null|true|false)$)[A-Za-z_][\w-]*", re.ASCII)
OWN = "conf"  # the folder of groups, in the working directory
COMMENT_COLUMN = 28


@dataclass(frozen=True)
class Place:
    """Where an experiment goes: a file of a folder of groups."""

    name: str
    folder: Path  # as the user wrote it

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / EXPERIMENT / f"{self.name}.yaml"

    @property
    def command(self) -> str:
        """The command that runs it."""
        return shlex.join(["lmft", "--config-dir", str(self.folder), f"{EXPERIMENT}={self.name}"])


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: a word can't be used, or there is such an experiment already.
    """
    folders, words = split_config_dirs(arguments.words)
    name, overrides = read_words(words)
    named = Path(arguments.out).expanduser() if arguments.out else next(iter(folders), Path(OWN))
    place = Place(name, relative(named))
    check_place(place)
    if place.folder.is_dir():
        folders = list(dict.fromkeys([place.folder.absolute(), *folders]))
    text = describe(place, overrides, folders)
    check_text(text, name, folders)
    with writable("out", place.path.parent):
        place.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(place.path, text)
    print(strip_control(f"{place.path}\n{place.command}"))


def relative(folder: Path) -> Path:
    """Return a folder by its path from the working directory, if it is below that."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def read_words(words: list[str]) -> tuple[str, list[str]]:
    """Return the name and the overrides of the experiment.

    Raises:
        UserError: the words name no experiment, or set nothing that a file may have.
    """
    kind, name, *overrides = [*words, "", ""] if len(words) < 2 else words
    if kind != EXPERIMENT:
        what = f", not {kind!r}" if kind else ""
        raise UserError(
            f"lmft new writes an experiment{what}; run lmft new experiment NAME "
            f"KNOB=VALUE ...{did_you_mean(kind, [EXPERIMENT])}"
        )
    if not NAME.fullmatch(name):
        raise UserError(
            f"The experiment's name is {name!r}; it must be letters, digits, - and _, as in lmft "
            "new experiment small_steps optimizer.lr=1e-4."
        )
    overrides = [word for word in overrides if word]
    if not overrides:
        raise UserError(f"lmft new experiment {name} sets nothing; add GROUP=CHOICE or KNOB=VALUE.")
    for word in overrides:
        if word.startswith("~"):
            raise UserError(f"{word!r} can't be written into a file; set the knob to null instead.")
        if redact(word) != word:
            raise UserError(
                f"{word.partition('=')[0]} holds a secret, which does not belong in a file; leave "
                "it out, and set it on the command line or in the environment."
            )
    return name, overrides


def check_place(place: Place) -> None:
    """Check that the experiment is new, and not among lmft's own files.

    Raises:
        UserError: it isn't, or is.
    """
    if place.folder.resolve().is_relative_to(CONF.resolve()):
        raise UserError(
            f"{place.folder} is lmft's own folder; write elsewhere, as with out=my-conf."
        )
    if place.path.exists():
        raise UserError(f"{place.path} exists; choose another name, or remove it first.")
    if place.name in choices_of(EXPERIMENT):
        raise UserError(f"lmft has an experiment {place.name!r} already; choose another name.")


def describe(place: Place, overrides: list[str], folders: list[Path]) -> str:
    """Return the text of the experiment, after its words have been composed.

    Args:
        place: where it goes.
        overrides: what it sets.
        folders: of groups beside those of lmft.

    Raises:
        UserError: a word can't be used.
    """
    composed, files = compose_run([*map(as_flag, folders), *overrides])
    check_types(composed)
    chosen: dict[str, str] = yaml.safe_load(files["hydra.yaml"])["runtime"]["choices"]
    defaults, knobs = [], OmegaConf.create()
    names = set()
    for override in OverridesParser.create().parse_overrides(quote_texts(overrides)):
        key, value = str(override.key_or_group), override.value()
        if key in chosen:
            comment = choice_comment(key, str(value), folders)
            item = f"- {value}" if key == EXPERIMENT else f"- override /{key}: {value}"
            defaults.append(with_comment(f"  {item}", comment))
            defaults += ["  - _self_"] if key == EXPERIMENT else []
        else:
            OmegaConf.update(knobs, key, value, force_add=True)
            names.add(key)
    lines = [GLOBAL, f"# {place.name}: say here what it asks, and what came of it.",
             f"# {place.command}"]  # fmt: skip
    lines += ["defaults:", *defaults] if defaults else []
    tree: dict[str, Any] = OmegaConf.to_container(knobs)  # type: ignore[assignment]
    comments = knob_comments(chosen, folders)
    blocks = ["\n".join(as_lines({key: tree[key]}, names, comments)) for key in tree]
    return "\n".join(lines) + "\n" + "".join(f"\n{block}\n" for block in blocks)


def as_lines(
    tree: dict[str, Any], names: set[str], comments: dict[str, str], prefix: str = ""
) -> Iterator[str]:
    """Yield the lines of YAML for knobs, each with its comment.

    Args:
        tree: the knobs.
        names: the full names of those that were set.
        comments: by full name.
        prefix: of the names in the tree.
    """
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name not in names:
            yield f"{indent}{key}:"
            yield from as_lines(value, names, comments, f"{name}.")
        else:
            meaning = comments.get(name) or str(RANGES.get(name, ""))
            yield with_comment(f"{indent}{as_yaml(str(key), value)}", meaning)


def as_yaml(key: str, value: Any) -> str:
    """Return a key with its value on one line of YAML, as OmegaConf reads it."""
    dumper = get_omega_conf_dumper()
    text = yaml.dump(
        {key: value}, Dumper=dumper, default_flow_style=True, width=10**9, allow_unicode=True
    )
    return str(text).strip()[1:-1]


def with_comment(line: str, comment: str) -> str:
    """Return a line of YAML with a comment behind it."""
    return f"{line:<{COMMENT_COLUMN}}  # {comment}" if comment else line


def check_text(text: str, name: str, folders: list[Path]) -> None:
    """Compose the experiment from its text.

    Raises:
        UserError: it can't be.
    """
    with TemporaryDirectory() as temporary:
        path = Path(temporary, EXPERIMENT, f"{name}.yaml")
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        words = map(as_flag, [Path(temporary), *folders])
        check_types(compose([*words, f"{EXPERIMENT}={name}"]))


def as_flag(folder: Path) -> str:
    """Return the word that names a folder of groups."""
    return f"{CONFIG_DIR}{folder}"
