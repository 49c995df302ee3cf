"""Names of models and datasets: a local folder, or a commit of the Hugging Face Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lmft.errors import UserError, first_line
from lmft.storage.atomic import read_json
from lmft.storage.hashing import digest, digest_files

ADAPTER_CONFIG = "adapter_config.json"  # in the folder of an adapter


@cache
def resolve_commit(name: str, revision: str, repo_type: str) -> str:
    """Return the commit that `revision` of a hub repository points to now.

    Offline, return the commit that the hub's local cache has for that revision.

    Args:
        name: of the repository, such as owner/name.
        revision: a branch, tag or commit.
        repo_type: model or dataset.

    Raises:
        UserError: there is no such repository or revision, or the hub cannot be reached.
    """
    from huggingface_hub import resolve_revision

    with hub_errors(f"{repo_type} {name!r}"):
        return str(resolve_revision(name, repo_type=repo_type, revision=revision).resolved)


def find_local_folder(name: str, knob: str) -> Path | None:
    """Return `name` as a path if it is a local folder; None if it names a model of the hub.

    Raises:
        UserError: `name` can only be a path, and there is no such folder.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{knob} is {name!r}, but there is no such folder; check the path.")
    return None


def pinned_revision(name: str, revision: str, knob: str = "model.name") -> str | None:
    """Return the commit of a hub model; None for a local folder."""
    return None if find_local_folder(name, knob) else resolve_commit(name, revision, "model")


def content_digest(name: str, revision: str, knob: str = "model.name") -> str:
    """Return a hash of a local folder's content, or of a hub model's name and commit."""
    folder = find_local_folder(name, knob)
    if folder is None:
        return digest([name, resolve_commit(name, revision, "model")])
    documentation = (".md", ".svg")  # the model card contains timings
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix not in documentation
    )
    content = [[path.name for path in files], digest_files(files)]
    base = find_base(name)
    return digest(content if base is None else [*content, content_digest(*base)])


def is_model_folder(folder: Path) -> bool:
    """Return whether a folder is that of a model or an adapter, and not of a run."""
    return any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG))


def find_base(name: str) -> tuple[str, str] | None:
    """Return name and revision of the base that a local folder's adapter belongs to.

    None if `name` is no folder of an adapter.

    Raises:
        UserError: the base is not where the adapter says.
    """
    path = Path(name).expanduser() / ADAPTER_CONFIG
    if not path.is_file():
        return None
    settings = read_json(path)
    base = str(settings.get("base_model_name_or_path") or "")
    change = f"change base_model_name_or_path in {path}"
    if not base:
        raise UserError(f"{name} is an adapter that does not name its base; {change}.")
    try:
        find_local_folder(base, name)
    except UserError:
        raise UserError(f"{name} is an adapter of {base}, which is not there; {change}.") from None
    return base, settings.get("revision") or "main"


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Explain in one sentence why the body could not load `what`, such as "model 'gpt2'".

    Raises:
        UserError: it is not on the hub, or the hub can't be reached and there is no local copy.
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
                f"The {what} needs its own Python code, which lmft does not run by default; read "
                "that code, and if you trust it, set model.trust_remote_code=true."
            ) from error
        reason = first_line(error)
        raise UserError(f"The {what} can't be loaded ({reason}); check its name.") from error
