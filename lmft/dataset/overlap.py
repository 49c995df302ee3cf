"""Keep files that validation or test reads out of training."""

from dataclasses import dataclass
from pathlib import Path

from lmft.dataset.files import Paths, identity, list_files
from lmft.dataset.sources import Source, TextFiles


@dataclass(frozen=True)
class TrainingFiles(TextFiles):
    """Text files without those that other splits read, unless that would leave none."""

    others: tuple[Paths, ...] = ()  # the values of dataset.validation and dataset.test

    def paths(self, where: Paths) -> list[Path]:
        """Return the files to train on."""
        paths, shared = super().paths(where), set(self.shared(where))
        return [path for path in paths if path not in shared] or paths

    def shared(self, where: Paths) -> list[Path]:
        """Return the files of `where` that another split reads too, under whatever name."""
        others = {identity(path) for other in self.others for path in list_files(other)}
        return [path for path in super().paths(where) if identity(path) in others]


def keep_apart(source: Source, *others: Paths | None) -> Source:
    """Return the source to train on: text files without those of the splits `others`."""
    names = tuple(other for other in others if other is not None)
    if type(source) is not TextFiles or not names:
        return source
    return TrainingFiles(**vars(source), others=names)
