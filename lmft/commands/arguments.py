"""The command line as a tree of argparse parsers: flags, verbs and their knobs. Imports are light.

A knob is a word such as `tokens=50`, as in Hydra's overrides; argparse sees it as `--tokens=50`.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmft.commands.argument_parser import CommandParser, Parser, PrintCompletion, SetKnob, folder
from lmft.commands.own_knobs import Knob
from lmft.commands.verbs import ANY, VERBS, Verb
from lmft.errors import UserError, did_you_mean

SHELLS = ("bash", "zsh", "fish")


def common_flags() -> Parser:
    """Return a parser of the flag that training takes, and verbs that compose a config."""
    parser = Parser(prog="lmft", add_help=False)
    parser.add_argument(
        "-cd",
        "--config-dir",
        metavar="DIR",
        type=folder,
        help="add a folder of your own groups and experiments",
    )
    return parser


def flags_of(verb: Verb) -> Parser:
    """Return a parser of the flags but --help that a verb takes."""
    return common_flags() if verb.config else Parser(add_help=False)


def add_hydra_flags(parser: Parser) -> None:
    """Add the flags that `hydra_app` passes on to Hydra; those without help are not shown."""
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a run for each combination of values separated by commas",
    )
    parser.add_argument(
        "-c",
        "--cfg",
        metavar="job",
        choices=("job", "hydra", "all"),
        help="show the composed config instead of running",
    )
    parser.add_argument("--resolve", action="store_true", help="with --cfg: show final values")
    parser.add_argument("-p", "--package", metavar="GROUP", help="with --cfg: show only this part")
    parser.add_argument(
        "-i",
        "--info",
        nargs="?",
        const="all",
        metavar="defaults",
        choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
        help="show how Hydra composes the config",
    )
    for names in (("-cn", "--config-name"), ("-cp", "--config-path")):
        parser.add_argument(*names, help=argparse.SUPPRESS)
    parser.add_argument("-r", "--run", dest="run_once", action="store_true", help=argparse.SUPPRESS)


def all_flags() -> Parser:
    """Return a parser of all flags but --help: those of Hydra, and lmft's own."""
    parser = Parser(prog="lmft", add_help=False, parents=[common_flags()])
    parser.add_argument(
        "--version",
        action="version",
        version=f"lmft {version('lmft')}",
        help="show the version of lmft",
    )
    parser.add_argument(
        "-sc",
        "--shell-completion",
        metavar="bash",
        action=PrintCompletion,
        default=argparse.SUPPRESS,
        type=lambda shell: shell.removeprefix("install="),  # as Hydra has it
        choices=SHELLS,
        help=f"print what makes the tab key complete; also {' and '.join(SHELLS[1:])}",
    )
    add_hydra_flags(parser)
    return parser


def command_parser() -> tuple[CommandParser, dict[str, Parser]]:
    """Return the parser of the whole command, and those of the verbs by name."""
    parser = CommandParser(
        prog="lmft",
        usage="lmft [GROUP=CHOICE ...] [KNOB=VALUE ...]    train\n"
        "       lmft -m KNOB=VALUE,VALUE ...                train for each combination\n"
        "       lmft VERB ...                               see lmft VERB --help",
        description="lmft fine-tunes language models from composed configurations.",
        parents=[all_flags()],
    )
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", prog="lmft", parser_class=Parser
    )
    for name, verb in VERBS.items():
        own = verbs.add_parser(
            name,
            help=verb.summary,
            usage=f"lmft {name} {verb.usage}",
            description=f"{verb.summary[:1].upper()}{verb.summary[1:]}.",
            epilog=f"example:\n  {verb.example}\n\n{knobs_of_config(verb)}",
            parents=[flags_of(verb)],
        )
        if verb.knobs:
            add_knobs(own, verb.knobs)
    return parser, dict(verbs.choices)


def knobs_of_config(verb: Verb) -> str:
    """Return which knobs of the config the verb takes."""
    if verb.config == ANY:
        return "Every knob of the config may be set, too: conf/, or `lmft -c job`."
    names = " and ".join(verb.config)
    return f"It takes no knobs of the config but {names}." if names else ""


def add_knobs(parser: Parser, knobs: Sequence[Knob]) -> None:
    """Add the knobs of a verb to its parser."""
    group = parser.add_argument_group("knobs of this verb")
    for knob in knobs:
        group.add_argument(
            f"--{knob.name}",
            action=SetKnob,
            dest=knob.attribute,
            metavar=knob.metavar,
            default=knob.default,
            type=knob.convert,
            choices=knob.choices,
            help=knob.help,
        )


def check_knobs(verb: str, **values: Any) -> None:
    """Check values of a verb's own knobs as its parser does.

    Raises:
        UserError: one is refused.
    """
    parser = Parser(prog=f"lmft {verb}", add_help=False)
    add_knobs(parser, VERBS[verb].knobs)
    parser.parse_args([f"--{name}={value}" for name, value in values.items()])


def split_line(line: Sequence[str]) -> tuple[argparse.Namespace, str | None, list[str]]:
    """Return the flags of a command line, its verb if it has one, and all other words.

    Flags may be anywhere. Of the other words, the first is a verb if it looks like one.
    """
    flags, words = all_flags().parse_known_args(line)
    verb = words.pop(0) if words and words[0].isidentifier() else None
    return flags, verb, words


def parse_line(line: Sequence[str]) -> argparse.Namespace:
    """Parse a command line: its `verb`, flags and own knobs by name, other words as `words`.

    Without a verb, the words are overrides for Hydra. Of a verb that composes a config, the words
    are overrides and --config-dir=FOLDER, as `lmft.config.compose.compose` takes them.

    Raises:
        UserError: a verb or flag is unknown, or a value is refused.
        SystemExit: after help, version or shell completion has been printed.
    """
    flags, name, words = split_line(line)
    parser, verbs = command_parser()
    parser.own_groups = (Path(flags.config_dir),) if flags.config_dir else ()
    if name is None:
        arguments = parser.parse_args([word for word in words if word.startswith("-")], flags)
        arguments.words = words  # without flags, else they would have been refused
        return arguments
    if name not in VERBS:
        raise UserError(
            f"There is no verb {name!r}; lmft KNOB=VALUE ... trains, see lmft --help."
            + did_you_mean(name, VERBS)
        )
    own = {knob.name for knob in VERBS[name].knobs}
    knobs = [f"--{word}" for word in words if "=" in word and word.partition("=")[0] in own]
    unknown = [word for word in words if word.startswith("-")]
    arguments, unknown = parser.parse_known_args([name, *knobs, *unknown])
    taken = {action.dest for action in flags_of(VERBS[name])._actions}
    given = [action for action in all_flags()._actions if getattr(flags, action.dest, None)]
    unknown += ["/".join(action.option_strings) for action in given if action.dest not in taken]
    if unknown:
        verbs[name].error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.words = [word for word in words if f"--{word}" not in knobs]
    if flags.config_dir:
        arguments.words.append(f"--config-dir={flags.config_dir}")
    return arguments
