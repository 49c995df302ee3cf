"""The reference of the command line: its verbs, their words and all flags."""

import argparse

from docs.generator.knob_pages import sentence
from lmft.commands.arguments import all_flags, knobs_of_config
from lmft.commands.verbs import ANY, VERBS, Knob, Verb

INTRO = """\
# Verbs and flags

`lmft` without a verb trains. Words are `GROUP=CHOICE`, `KNOB=VALUE` and, where a verb takes runs,
their folders; flags may be anywhere in the line. `lmft VERB --help` prints what is here."""


def verbs_page() -> str:
    """Return the page: training with the flags, then a section for each verb."""
    train = ["## lmft { #train }", "Train, resume or answer from a finished run.", TRAIN, _flags()]
    return "\n\n".join([INTRO, *train, *(_section(*item) for item in VERBS.items())]) + "\n"


TRAIN = """\
```text
lmft [GROUP=CHOICE ...] [KNOB=VALUE ...]
lmft -m KNOB=VALUE,VALUE ...
```"""


def _flags() -> str:
    shown = [action for action in all_flags()._actions if action.help != argparse.SUPPRESS]
    lines = [f"- `{_names(action)}`: {sentence(str(action.help))}" for action in shown]
    return "\n".join([*lines, "- `-h, --help`: Show groups, choices, verbs and examples."])


def _names(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {action.metavar}"


def _section(name: str, verb: Verb) -> str:
    parts = [f"## lmft {name} {{ #{name} }}", sentence(verb.summary)]
    parts.append(f"```text\nlmft {name} {verb.usage}\n```")
    parts.append(f"```sh\n{verb.example}\n```")
    parts += ["\n".join(map(_line, verb.knobs))] if verb.knobs else []
    return "\n\n".join([*parts, KNOBS if verb.config == ANY else knobs_of_config(verb)])


def _line(knob: Knob) -> str:
    text = knob.help % {"default": knob.default}
    return f"- `{knob.name}={knob.metavar}`: {sentence(text)}"


KNOBS = "Every [knob of the config](knobs/index.md) may be set, too."
