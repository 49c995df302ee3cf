"""`lmft init`: write a project of one's own, from the files in `project/`."""

import shlex
from argparse import Namespace
from pathlib import Path

from lmft.errors import UserError, writable
from lmft.output.sanitize import strip_control
from lmft.storage.atomic import write_text

PROJECT = Path(__file__).with_name("project")
RENAMED = {"gitignore": ".gitignore"}  # git would obey it in lmft's own folders


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: there are such files already, or a word is no folder.
    """
    words: list[str] = arguments.words
    if len(words) > 1 or "=" in "".join(words):
        raise UserError(
            f"lmft init takes one folder, not {' '.join(words)!r}; name it as in lmft init "
            "my-project."
        )
    folder = Path(*words).expanduser()
    write_project(folder)
    lines = [f"cd {shlex.quote(str(folder))}"] if folder != Path() else []
    print(strip_control("\n".join([*lines, "lmft --config-dir conf experiment=first"])))


def write_project(folder: Path) -> None:
    """Write all files of a project into a folder, or none.

    Raises:
        UserError: one of them is there, or a file is in the way.
    """
    texts = {
        folder.joinpath(path.parent.relative_to(PROJECT), RENAMED.get(path.name, path.name)): path
        for path in sorted(PROJECT.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    for path in texts:
        if path.exists():
            raise UserError(f"{path} exists; name another folder, as in lmft init my-project.")
    with writable("DIR", folder):
        for path, template in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, template.read_text(encoding="utf-8"))
            print(strip_control(str(path)))
