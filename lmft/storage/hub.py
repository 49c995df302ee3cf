"""Models and datasets by name: a local folder, or which commit of the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lmft.errors import UserError
from lmft.storage.hashing import digest, digest_files


@cache
def resolve_commit(name: str, revision: str, kind: str) -> str:
    """The commit that `revision` of the hub's `kind` (model or dataset) `name` stands for now.

    Offline, it is the one that the hub's local cache has under that revision.
    """
    from huggingface_hub import resolve_revision

    with hub_errors(f"{kind} {name!r}"):
        return str(resolve_revision(name, repo_type=kind, revision=revision).resolved)


def locate(name: str, knob: str) -> Path | None:
    """The local folder that `name` means, or None for a model of the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{knob} is {name!r}, but there is no such folder; check the path.")
    return None


def pinned_revision(name: str, revision: str, knob: str = "model.name") -> str | None:
    """The commit of a hub model; None for a local folder."""
    return None if locate(name, knob) else resolve_commit(name, revision, "model")


def content_digest(name: str, revision: str, knob: str = "model.name") -> str:
    """A hash that changes with the content of a local folder, or a hub model's commit."""
    folder = locate(name, knob)
    if folder is None:
        return digest([name, resolve_commit(name, revision, "model")])
    read_by_people = (".md", ".svg")  # a card, which tells the time
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix not in read_by_people
    )
    return digest([[path.name for path in files], digest_files(files)])


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Whatever keeps `what` from being loaded, as one sentence.

    Raises:
        UserError: it is not on the hub, or the hub can't be reached and no copy is here.
    """
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    try:
        yield
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"The hub has no {what}, or it is private; check the name, or log in with "
            "`hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"The hub's {what} has no such revision; try revision=main.") from error
    except (OfflineModeIsEnabled, RevisionResolutionError) as error:
        raise UserError(
            f"The {what} is not in the hub's local cache, and the hub can't be reached; check the "
            "network (or unset HF_HUB_OFFLINE), or name a local folder."
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"The {what} comes with Python code of its own, which does not run here; read that "
                "code, and if you trust it, set model.trust_remote_code=true."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"The {what} can't be loaded ({reason}); check its name.") from error
