"""argparse with lmft's words: a knob is shown as users write it, and errors are raised."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from lmft.errors import UserError, did_you_mean

INDENT = 28  # columns before an explanation in help


def folder(text: str) -> str:
    """Return the absolute path of a folder that exists."""
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"folder {text!r} not found")
    return str(path)


class SetKnob(argparse.Action):
    """Store the value of a knob; help and messages show the knob as users write it."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """Store it."""
        setattr(namespace, self.dest, values)


class PrintCompletion(argparse.Action):
    """Print what makes a shell complete commands of lmft, then exit."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, *__: Any) -> None:
        """Print it."""
        from argcomplete.shell_integration import shellcode

        print(shellcode(["lmft"], True, shell))
        parser.exit()


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Show a knob as `tokens=N`, where argparse would show `--tokens N`."""

    def __init__(self, prog: str, **more: Any):
        super().__init__(prog, max_help_position=INDENT, **more)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, SetKnob):
            return f"{action.option_strings[0][2:]}={action.metavar}"
        if action.option_strings and action.nargs != 0:  # as Python 3.13 does
            return f"{', '.join(action.option_strings)} {self._format_args(action, '')}"
        return super()._format_action_invocation(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises what argparse would print before it exits."""

    def __init__(self, **settings: Any):
        super().__init__(formatter_class=Formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise the message, in which a knob has the name that users write.

        Raises:
            UserError: always.
        """
        knob = re.match(r"argument --([\w.]+): (.*)", message)
        if knob is None:
            unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
            hint = did_you_mean(unknown[1], self.flags()) if unknown else ""
            raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.{hint}")
        choices = re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", knob[2])
        offered = choices[2].replace("'", "") if choices else ""
        reason = f"is {choices[1]}; choose {offered}." if choices else knob[2]
        raise UserError(f"{knob[1]} {reason}")

    def flags(self) -> list[str]:
        """Return the flags that the help shows."""
        shown = (
            action
            for action in self._actions
            if action.help != argparse.SUPPRESS and not isinstance(action, SetKnob)
        )
        return [flag for action in shown for flag in action.option_strings]


class CommandParser(Parser):
    """The parser of the whole command, whose help also lists groups, choices and examples."""

    own_groups: tuple[Path, ...] = ()  # folders of groups that the line adds

    def format_help(self) -> str:
        """Return the help; groups are read from the config files, so that they are up to date."""
        from lmft.commands.help import epilog

        self.epilog = epilog(self.own_groups)
        return super().format_help()
