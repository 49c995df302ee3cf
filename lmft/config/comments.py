"""The comments of config files: what a choice is, and what a knob means."""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

import yaml

from lmft.config import CONF
from lmft.config.groups import GLOBAL, Loader, known_groups
from lmft.config.plugins import conf_folders


def top_comment(path: Path) -> str:
    """Return the comment at the top of a config file, in lines, without Hydra's package line."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return "\n".join(line[2:] for line in lines if not line.startswith("# @"))


def choice_comment(group: str, choice: str, more: Iterable[Path] = ()) -> str:
    """Return the first line of the comment at the top of a choice; empty if it has none.

    Args:
        group: such as `model` or `hydra/launcher`.
        choice: of the group.
        more: folders of groups, whose files come before those of lmft.
    """
    paths = [path for path in known_groups(more).get(group, []) if path.stem == choice]
    return top_comment(paths[-1]).partition("\n")[0] if paths else ""


def knob_comments(choices: dict[str, str], more: Iterable[Path] = ()) -> dict[str, str]:
    """Return the comments of knobs by full name: of a chosen file, else of its group.

    Args:
        choices: by group.
        more: folders of groups, whose files come before those of lmft.
    """
    comments = read_comments(CONF / "config.yaml")
    paths = [path for conf in conf_folders() for path in conf.glob("*/*.yaml")]
    paths.sort(key=lambda path: _rank(path, choices))
    paths += [path for conf in more for path in conf.glob("*/*.yaml") if _rank(path, choices) > 0]
    for path in paths:
        comments |= read_comments(path, f"{path.parent.name}.")
    return comments


def _rank(path: Path, choices: dict[str, str]) -> int:
    """Return 2 for the file of the choice, 1 for _base, 0 for other choices."""
    return 2 if path.stem == choices.get(path.parent.name) else int(path.stem == "_base")


def read_comments(path: Path, prefix: str = "") -> dict[str, str]:
    """Return the comments behind the knobs of a config file, by full name.

    Indented lines below, with nothing but a comment, continue it.

    Args:
        path: of the file.
        prefix: of the names, unless the file has them in full.
    """
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader)
    ends = dict(_ends_of_values(root, "" if text.startswith(GLOBAL) else prefix))
    comments: dict[str, str] = {}
    name = ""
    for number, line in enumerate(text.splitlines()):
        if number in ends:
            name, column = ends[number]
            line = line[column:]
        elif not line.startswith(" "):
            name = ""
        if name and line.lstrip().startswith("#"):
            comments[name] = f"{comments.get(name, '')} {line.lstrip(' #')}".strip()
        else:
            name = ""
    return comments


def _ends_of_values(node: yaml.Node | None, prefix: str) -> Iterator[tuple[int, tuple[str, int]]]:
    """Yield the line on which each knob's value ends, with the knob's full name and the column."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.CollectionNode) and not value.flow_style:
            yield from _ends_of_values(value, f"{name}.")
        else:
            yield value.end_mark.line, (name, value.end_mark.column)
