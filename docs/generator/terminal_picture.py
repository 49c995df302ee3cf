"""Take a picture of a command in a real terminal: run it in tmux, write the screen as SVG.

    python -m docs.generator.terminal_picture docs/pictures/NAME.svg 'lmft optimizer.lr=3e-3'

It runs in the working directory and needs tmux. The command is shown in front of its output.
"""

import argparse
import re
import shlex
import subprocess
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

TMUX = ("tmux", "-L", "lmft-picture")
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # of another host


def screen_of(command: str, columns: int, rows: int) -> str:
    """Return what a terminal of this size shows when the command has ended, with its colors."""
    shown = f"printf '%s\\n' {shlex.quote('$ ' + command)}; {command}; tmux wait-for -S ended; cat"
    size = ("-x", str(columns), "-y", str(rows))
    subprocess.run([*TMUX, "new-session", "-d", *size, "sh", "-c", shown], check=True)
    try:
        subprocess.run([*TMUX, "wait-for", "ended"], check=True)
        pane = [*TMUX, "capture-pane", "-e", "-p"]
        return subprocess.run(pane, check=True, capture_output=True, text=True).stdout.rstrip()
    finally:
        subprocess.run([*TMUX, "kill-server"], check=True)


def as_svg(screen: str, columns: int, title: str) -> str:
    """Return a screen as a picture that loads nothing."""
    console = Console(record=True, width=columns, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen), soft_wrap=True)
    svg = FONT.sub("", console.export_svg(title=title, theme=MONOKAI))
    return re.sub(r"font-family: Fira Code, *monospace", "font-family: monospace", svg)


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("command")
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--title", default="lmft")
    given = parser.parse_args()
    screen = screen_of(given.command, given.columns, given.rows)
    given.path.write_text(as_svg(screen, given.columns, given.title))


if __name__ == "__main__":
    main()
