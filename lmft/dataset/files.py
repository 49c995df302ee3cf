"""List the files of a split: a file, a folder or a glob, without what is hidden or no data."""

import glob
import logging
from functools import cache
from pathlib import Path

from lmft.dataset.formats.compressed import OPENERS
from lmft.dataset.readers import FORMATS, TEXT_FORMATS, format_of
from lmft.errors import UserError

logger = logging.getLogger(__name__)


# Names of text files that are often about the data beside them.
ABOUT = {"readme", "license", "licence"}
# Written beside data by the library `datasets`; they hold no records.
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json"}


def find_files(where: str) -> list[Path]:
    """Return the files that dataset.train, dataset.validation or dataset.test names, in order.

    Raises:
        UserError: there are none.
    """
    if files := list_files(where):
        return files
    suffixes = " ".join([*FORMATS, *OPENERS])
    exists = Path(where).expanduser().exists() or glob.glob(str(Path(where).expanduser()))
    reason = f"has no file to read ({suffixes})" if exists else "is not there"
    raise UserError(f"{where!r} {reason}; give a file, a folder or a glob.")


def list_files(where: str) -> list[Path]:
    """Return the files that `where` names, in order; an empty list if there are none."""
    root = Path(where).expanduser()
    if root.is_file():
        return [root] if format_of(root) in FORMATS else []
    if root.is_dir():
        paths = [path for path in sorted(root.rglob("*")) if not is_hidden(path.relative_to(root))]
    else:
        paths = [Path(path) for path in sorted(glob.glob(str(root), recursive=True))]
    files = [path for path in paths if format_of(path) in FORMATS and path.is_file()]
    return _without_descriptions(files)


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
    metadata = [path for path in files if path.name in METADATA]
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
def _warn_of_reading(path: Path) -> None:
    """Warn once per file."""
    logger.warning(
        "%s is read as one of the texts; move it to another folder to leave it out.", path
    )


@cache
def _warn_of_leaving_out(path: Path) -> None:
    """Warn once per file."""
    logger.warning("%s is left out, since it describes the data beside it.", path)
