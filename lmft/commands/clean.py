"""`lmft clean`: remove runs and caches, after asking."""

import re
import shutil
from argparse import Namespace
from pathlib import Path

from lmft.config.compose import compose
from lmft.errors import UserError
from lmft.output.sanitize import strip_control
from lmft.output.terminal import readable_size
from lmft.runs.listing import State, is_run, list_runs, size_of
from lmft.storage.lock import is_locked

CACHES = ("tokens", "tokenizers", "baselines")  # in cache_root
CACHED = re.compile(r"\.?[0-9a-f]{32}\b.*")  # what lmft puts there, and its locks


def main(arguments: Namespace) -> None:
    """Run the command."""
    names = [word for word in arguments.words if "=" not in word]
    composed = compose([word for word in arguments.words if "=" in word])
    run_root, cache_root = (
        Path(root).expanduser().absolute() for root in (composed.run_root, composed.cache_root)
    )
    runs = list(dict.fromkeys(find(n, run_root) for n in names)) if names else unfinished(run_root)
    cached = find_cached(cache_root) if arguments.cache else []
    if not runs and not cached:
        hint = "" if arguments.cache else "; cache=true would remove the cache"
        print(strip_control(f"Nothing to remove: {run_root} has no unfinished run{hint}."))
        return
    for run in runs:
        print(strip_control(f"{readable_size(size_of(run)):>12}  {run}", lines=False))
    if cached:
        size = sum(map(size_of, cached))
        what = "tokens, tokenizers and losses before training, rebuilt when needed"
        print(f"{readable_size(size):>12}  {cache_root}: {what}")
    if not (arguments.yes or agreed()):
        print("Nothing was removed.")
        return
    for path in [*runs, *cached]:
        remove(path)
    print("Removed. In MLflow the runs stay.")


def find(name: str, root: Path) -> Path:
    """Return the run that `name` means: a folder of `root`, or the path of one.

    Raises:
        UserError: it is not a run, is outside of `root`, or is running.
    """
    candidates = (path for path in (root / name, Path(name).expanduser()) if path.is_dir())
    path = next(candidates, root / name).absolute()
    if not is_run(path):
        raise UserError(f"{name!r} is no run of {root}; lmft runs lists those there are.")
    # Links among the parents are followed, the last part is not: a link is not removed.
    if path.is_symlink() or path.resolve().parent != root.resolve():
        raise UserError(f"{name!r} is outside of run_root={root}; set run_root to its folder.")
    if is_locked(path):
        raise UserError(f"{name!r} is still running; stop it first, or leave it out.")
    return path.resolve()


def unfinished(root: Path) -> list[Path]:
    """Return the runs of `root` that began, have not finished, and are not running."""
    return [entry.path for entry in list_runs(root) if entry.state is State.unfinished]


def find_cached(root: Path) -> list[Path]:
    """Return what lmft put into the caches, and nothing else that may be there."""
    paths = []
    for name in CACHES:
        folder = root / name
        if folder.is_dir() and folder.resolve().parent != root.resolve():
            raise UserError(f"{folder} is a link that leads out of cache_root; remove it by hand.")
        paths += [path for path in sorted(folder.glob("*")) if CACHED.fullmatch(path.name)]
    return paths


def agreed() -> bool:
    """Ask the user; no answer means no."""
    try:
        return input("Remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, but never what a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
