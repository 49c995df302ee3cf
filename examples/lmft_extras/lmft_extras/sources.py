"""Dataset sources."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lmft.dataset.sources import Rows
from lmft.errors import UserError
from lmft.storage.hashing import digest_files


@dataclass(frozen=True)
class PackageSource:
    """The Python files of an installed package, one document each; a split names the package."""

    def parts(self, where: str) -> list[Rows]:
        """Return the rows of each file: its text as a whole."""
        return [Rows(lambda path=path: iter([path.read_text()]), "row") for path in files(where)]

    def digest(self, where: str) -> str:
        """Return a hash of the files' contents."""
        return digest_files(files(where))


def files(package: str) -> list[Path]:
    """Return the package's files.

    Raises:
        UserError: there is no such package.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"dataset.train is {package!r}, which is not an installed package.")
    return sorted(Path(spec.submodule_search_locations[0]).glob("*.py"))
