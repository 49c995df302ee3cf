"""Complete a command line when the tab key is pressed; nothing heavy is imported.

argcomplete handles the shell and quoting; this module finds what a word may become.
"""

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import get_type_hints

from argcomplete.completers import DirectoriesCompleter
from argcomplete.finders import CompletionFinder
from argcomplete.lexers import split_line as split_words

from lmft.commands.arguments import all_flags, flags_of, split_line
from lmft.commands.own_knobs import RUN, flag
from lmft.commands.verbs import ANY, VERBS, Verb
from lmft.config.groups import known_groups, known_names
from lmft.config.schema import RunConfig
from lmft.errors import UserError

TRAINING = Verb("", "", "", "", config=ANY, words=tuple(VERBS))
UNKNOWN = Verb("", "", "", "")
BOOLEANS = ("true", "false")


def complete_line() -> None:
    """Print for the shell what the word at the cursor may become; end the process."""
    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    typed = split_words(line, point)[3]
    finder, parser = Finder(), all_flags()
    try:
        flags, name, words = split_line(typed[1:])
        verb = TRAINING if name is None else VERBS.get(name, UNKNOWN)
        parser = all_flags() if name is None else flags_of(verb)
        finder.candidates = partial(
            complete_word, verb=verb, words=words, config_dir=flags.config_dir
        )
    except UserError:  # the last flag still lacks its value
        pass
    parser.add_argument("-h", "--help", action="help")
    finder(parser, always_complete_options=False, default_completer=DirectoriesCompleter())


class Finder(CompletionFinder):
    """Find what flags and their values may become by argparse's parser, all other words here."""

    candidates: Callable[[str], Iterable[str]] | None = None  # of a word that is no flag

    def collect_completions(
        self, active_parsers: list[ArgumentParser], parsed_args: Namespace, cword_prefix: str
    ) -> list[str]:
        """Return what a word that begins with `cword_prefix` may become."""
        if self.candidates is None or cword_prefix.startswith("-"):
            return super().collect_completions(active_parsers, parsed_args, cword_prefix)
        candidates = list(self.candidates(cword_prefix))
        for word in candidates:  # zsh and fish show it
            self.get_display_completions()[word] = VERBS[word].summary if word in VERBS else ""
        return candidates


def complete_word(
    prefix: str, verb: Verb, words: list[str], config_dir: str | None = None
) -> Iterator[str]:
    """Yield what a word that begins with `prefix` may become.

    Args:
        prefix: what is typed of it.
        verb: of the line.
        words: those before it, without flags and the verb.
        config_dir: of the line's flag.
    """
    name, equals, value = prefix.partition("=")
    if equals:
        last = value.rpartition(",")[2].removeprefix("[")  # of a sweep or a list
        for choice in values_of(name, last, verb, words, config_dir):
            yield f"{name}={value.removesuffix(last)}{choice}"
        return
    first = [word for word in verb.words if word.startswith(prefix)] if not words else []
    yield from first
    if first and prefix:  # `ev` is evaluate; all else begins with more of a word
        return
    if verb.takes_runs:
        yield from complete_run(prefix, words)
    names = {name for name in known_names() if name.startswith(verb.config)}
    names |= set(known_groups()) if verb.config == ANY else set()
    offered = {name for name in names if is_offered(name, prefix)}
    offered |= {knob.name for knob in verb.knobs if knob.name.startswith(prefix)}
    yield from (f"{name}=" for name in sorted(offered))


def is_offered(name: str, prefix: str) -> bool:
    """Return whether a name is offered; deep, private and Hydra's names once they are begun."""
    if not prefix:
        return re.fullmatch(r"\w+", name) is not None and name != "hydra"
    begun = len(prefix) > 1 or not name.startswith("hydra")
    private = name.count("._") > prefix.count("._")
    return name.startswith(prefix) and begun and not private and name != "hydra"


def values_of(
    name: str, value: str, verb: Verb, words: list[str], config_dir: str | None
) -> Iterable[str]:
    """Return the values of a group or knob that begin with `value`; paths if it has no choices."""
    if name == RUN.name:
        return complete_run(value, words)
    own = {knob.name: knob for knob in verb.knobs}.get(name)
    groups = known_groups([Path(config_dir)] if config_dir else [])
    choices: Sequence[str]
    if own is not None:
        choices = own.choices or (BOOLEANS if own.convert is flag else ())
    elif name in groups:
        choices = sorted({path.stem for path in groups[name]})
    else:
        choices = choices_in_schema(name)
    if choices:
        return [choice for choice in choices if choice.startswith(value)]
    return complete_path(value)


def choices_in_schema(name: str) -> tuple[str, ...]:
    """Return the values of a knob that is true or false, or one of several names."""
    group, _, knob = name.rpartition(".")
    types = get_type_hints(RunConfig)
    kind = (get_type_hints(types.get(group, object)) if group else types).get(knob)
    if kind is bool:
        return BOOLEANS
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(member.value for member in kind)
    return ()


def complete_run(prefix: str, words: list[str]) -> Iterator[str]:
    """Yield the folders of runs in run_root, else those on the way to others."""
    roots = [word.partition("=")[2] for word in words if word.startswith("run_root=")]
    folders = [*complete_path(f"{(roots or ['runs'])[-1]}/"), *complete_path(prefix)]
    runs = [path.rstrip("/") for path in folders if Path(path, ".hydra").expanduser().is_dir()]
    found = list(dict.fromkeys(path for path in runs if path.startswith(prefix)))
    yield from found or (path for path in folders if path.endswith("/") and path.startswith(prefix))


def complete_path(prefix: str) -> Iterator[str]:
    """Yield the files, and the folders with a slash, whose paths begin with `prefix`."""
    start, slash, name = prefix.rpartition("/")
    start += slash
    try:
        entries = sorted(Path(start or ".").expanduser().iterdir())
    except OSError:
        return
    for path in entries:
        if path.name.startswith(name) and (name or not path.name.startswith(".")):
            yield f"{start}{path.name}{'/' * path.is_dir()}"
