"""The story of `lmft clean`: remove runs and caches, after asking."""

import re
import shutil
from pathlib import Path

from lmft.config.compose import compose
from lmft.errors import UserError
from lmft.output.sanitize import strip_control
from lmft.output.terminal import readable_size
from lmft.runs.listing import State, is_run, list_runs, size_of
from lmft.storage.lock import is_locked

FLAGS = ("cache", "yes")

CACHES = ("tokens", "tokenizers")  # in cache_root

CACHED = re.compile(r"\.?[0-9a-f]{32}\b.*")  # what lmft puts there, and its locks


def tell(words: list[str], conf: Path) -> None:
    """The command: `lmft clean [RUN ...] [cache=true] [yes=true] [KNOB=VALUE ...]`."""
    names = [word for word in words if "=" not in word]
    flags = {name: read_flag(name, words) for name in FLAGS}
    knobs = [word for word in words if "=" in word and word.partition("=")[0] not in FLAGS]
    composed = compose(conf, knobs)
    run_root, cache_root = (
        Path(root).expanduser().absolute() for root in (composed.run_root, composed.cache_root)
    )
    runs = list(dict.fromkeys(find(n, run_root) for n in names)) if names else unfinished(run_root)
    cached = find_cached(cache_root) if flags["cache"] else []
    if not runs and not cached:
        hint = "" if flags["cache"] else "; cache=true would remove cached tokens"
        print(strip_control(f"Nothing to remove: {run_root} has no unfinished run{hint}."))
        return
    for run in runs:
        print(strip_control(f"{readable_size(size_of(run)):>12}  {run}", lines=False))
    if cached:
        size = sum(map(size_of, cached))
        print(f"{readable_size(size):>12}  {cache_root}: tokens and tokenizers, made again on need")
    if not (flags["yes"] or agreed()):
        print("Nothing was removed.")
        return
    for path in [*runs, *cached]:
        remove(path)
    print("Removed. What MLflow knows of a run stays there.")


def read_flag(name: str, words: list[str]) -> bool:
    """Whether the words have NAME=true."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    if values and values[-1] not in ("true", "false"):
        raise UserError(f"{name} is {values[-1]!r}; it must be true or false.")
    return bool(values) and values[-1] == "true"


def find(name: str, root: Path) -> Path:
    """The run that `name` means: a folder of `root`, or the path of one.

    Raises:
        UserError: it is none, lies elsewhere, or is at work.
    """
    places = (place for place in (root / name, Path(name).expanduser()) if place.is_dir())
    path = next(places, root / name).absolute()
    if not is_run(path):
        raise UserError(f"{name!r} is no run of {root}; lmft runs lists those there are.")
    # The links on the way are followed, the last name is not: a link is no run of ours to remove.
    if path.is_symlink() or path.resolve().parent != root.resolve():
        raise UserError(f"{name!r} lies outside of run_root={root}; set run_root to its folder.")
    if is_locked(path):
        raise UserError(f"{name!r} is still running; stop it first, or leave it out.")
    return path.resolve()


def unfinished(root: Path) -> list[Path]:
    """The runs of `root` that began, have not finished, and are not at work."""
    return [entry.path for entry in list_runs(root) if entry.state is State.unfinished]


def find_cached(root: Path) -> list[Path]:
    """What lmft put into the caches, and nothing else that may lie there."""
    found = []
    for name in CACHES:
        folder = root / name
        if folder.is_dir() and folder.resolve().parent != root.resolve():
            raise UserError(f"{folder} is a link that leads out of cache_root; remove it by hand.")
        found += [path for path in sorted(folder.glob("*")) if CACHED.fullmatch(path.name)]
    return found


def agreed() -> bool:
    """Ask; no answer means no."""
    try:
        return input("Remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
