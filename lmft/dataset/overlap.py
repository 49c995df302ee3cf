"""Keep files that validation or test reads out of training."""

from dataclasses import dataclass
from pathlib import Path

from lmft.dataset.files import list_files
from lmft.dataset.sources import Source, TextFiles


@dataclass(frozen=True)
class TrainingFiles(TextFiles):
    """Text files without those that other splits read, unless that would leave none."""

    others: tuple[str, ...] = ()  # the values of dataset.validation and dataset.test

    def paths(self, where: str) -> list[Path]:
        """Return the files to train on."""
        paths, shared = super().paths(where), set(self.shared(where))
        return [path for path in paths if path not in shared] or paths

    def shared(self, where: str) -> list[Path]:
        """Return the files of `where` that another split reads too, under whatever name."""
        others = {_identity(path) for other in self.others for path in list_files(other)}
        return [path for path in super().paths(where) if _identity(path) in others]


def keep_apart(source: Source, *others: str | None) -> Source:
    """Return the source to train on: text files without those of the splits `others`."""
    names = tuple(other for other in others if other is not None)
    if type(source) is not TextFiles or not names:
        return source
    return TrainingFiles(source.text_column, source.errors, names)


def _identity(path: Path) -> tuple[int, int]:
    """Return what is equal for two paths if they are the same file, by links too."""
    status = path.stat()
    return status.st_dev, status.st_ino
