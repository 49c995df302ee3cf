"""List the files of a split: files, folders and globs, without what is hidden or no data."""

import codecs
import glob
import logging
from functools import cache
from pathlib import Path

from lmft.dataset.formats.compressed import OPENERS, open_bytes
from lmft.dataset.readers import FORMATS, TEXT_FORMATS, format_of
from lmft.errors import UserError

logger = logging.getLogger(__name__)

Paths = str | list[str]  # a file, a folder or a glob, or a list of them
START = 1 << 12  # bytes of a file of no known format that must be text

# Names of text files that are often about the data beside them.
ABOUT = {"readme", "license", "licence"}
# Written beside data by the library `datasets`; they hold no records.
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json"}


def find_files(where: Paths) -> list[Path]:
    """Return the files that dataset.train, dataset.validation or dataset.test names, in order.

    Raises:
        UserError: a path names none.
    """
    for path in as_list(where):
        if not _files_of(path):
            raise UserError(f"{path!r} {_why_none(path)}; give a file, a folder or a glob.")
    return list_files(where)


def list_files(where: Paths) -> list[Path]:
    """Return the files that `where` names, in order; an empty list if there are none.

    A file that several paths of a list name comes once.
    """
    files: list[Path] = []
    known: set[tuple[int, int]] = set()
    for path in as_list(where):
        new = [file for file in _files_of(path) if identity(file) not in known]
        known.update(map(identity, new))
        files += new
    return files


def as_list(where: Paths) -> list[str]:
    """Return the paths that a knob names."""
    return [where] if isinstance(where, str) else where


def identity(path: Path) -> tuple[int, int]:
    """Return what is equal for two paths if they are the same file, by links too."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _files_of(where: str) -> list[Path]:
    """Return the files that one path names, in order."""
    root = Path(where).expanduser()
    if root.is_file():
        return [root] if format_of(root) in FORMATS or _looks_like_text(root) else []
    if root.is_dir():
        paths = [path for path in sorted(root.rglob("*")) if not is_hidden(path.relative_to(root))]
    else:
        paths = [Path(path) for path in sorted(glob.glob(str(root), recursive=True))]
    files = [path for path in paths if format_of(path) in FORMATS and path.is_file()]
    return _without_descriptions(files)


def _why_none(where: str) -> str:
    path = Path(where).expanduser()
    if path.exists() or glob.glob(str(path), recursive=True):
        return f"has no file to read ({' '.join([*FORMATS, *OPENERS])})"
    return "matches no file" if glob.has_magic(where) else "is not there"


def _looks_like_text(path: Path) -> bool:
    """Check whether a file that a path names, of no known format, begins with text; report it."""
    with open_bytes(path) as file:
        start = file.read(START)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    if b"\0" in start:
        return False
    _warn_of_unknown(path)
    return True


def is_hidden(path: Path) -> bool:
    """Check whether a path, relative to the folder that is read, is none of the user's data.

    Examples are .ipynb_checkpoints/, ._notes.txt and __MACOSX/.
    """
    return any(part.startswith(".") for part in path.parts) or any(
        part.startswith("__") for part in path.parts[:-1]
    )


def _without_descriptions(files: list[Path]) -> list[Path]:
    """Leave out files that only describe the others, and report it.

    A README among other texts may be one of them, so it is read, and reported.
    """
    is_saved = any(format_of(path) == ".arrow" for path in files)  # by datasets.save_to_disk
    names = METADATA | {"state.json"} if is_saved else METADATA
    metadata = [path for path in files if path.name in names]
    about = [path for path in files if _is_about(path)]
    formats = {format_of(path) for path in set(files).difference(metadata, about)}
    if not formats:
        return files
    if formats.intersection(TEXT_FORMATS):
        for path in about:
            _warn_of_reading(path)
        about = []
    left_out = {*metadata, *about}
    for path in sorted(left_out):
        _warn_of_leaving_out(path)
    return [path for path in files if path not in left_out]


def _is_about(path: Path) -> bool:
    return path.name.partition(".")[0].lower() in ABOUT and format_of(path) in TEXT_FORMATS


@cache
def _warn_of_unknown(path: Path) -> None:
    """Warn once per file."""
    logger.warning("%s is read as text, as .txt is; its name ends in no known format.", path)


@cache
def _warn_of_reading(path: Path) -> None:
    """Warn once per file."""
    logger.warning(
        "%s is read as one of the texts; move it to another folder to leave it out.", path
    )


@cache
def _warn_of_leaving_out(path: Path) -> None:
    """Warn once per file."""
    logger.warning("%s is left out, since it describes the data beside it.", path)
