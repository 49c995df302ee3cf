"""Send files to a model repository of the Hugging Face Hub, in one commit, only what changed."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmft.errors import UserError

# Weights that another version of the model leaves behind in a repository.
WEIGHTS = re.compile(r"(model|adapter_model)[\w-]*\.safetensors(\.index\.json)?")
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
RETRY = "then push again; what the repository has stays as it is"


@dataclass(frozen=True)
class Change:
    """A file, and what a push does to it in the repository."""

    path: str
    state: str  # new, changed, same or removed
    size: int  # bytes
    content: Path | bytes | None  # None: removed


@dataclass(frozen=True)
class Push:
    """What a push will do."""

    repo: str  # owner/name
    is_new: bool  # the repository is to be created
    changes: list[Change]
    is_asked: bool = True  # whether the hub said what it has

    @property
    def sent(self) -> list[Change]:
        """The files that the repository lacks."""
        return [change for change in self.changes if change.state in ("new", "changed")]

    @property
    def removed(self) -> list[Change]:
        """The files that are removed from it."""
        return [change for change in self.changes if change.state == "removed"]

    @property
    def url(self) -> str:
        """The address of the repository."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repo}"


def plan_push(repo: str, files: Mapping[str, Path | bytes], dry_run: bool = False) -> Push:
    """Compare `files`, by their names there, with those of a repository, which may not exist.

    In a dry run without a login, the hub is not asked, and all of them are to be sent.

    Raises:
        UserError: the hub can't be reached or refuses it.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not NAME.fullmatch(repo):
        raise UserError(f"repo={repo} is no name on the hub; set repo=OWNER/NAME.")
    with upload_errors(repo):
        if dry_run and not get_token():
            unasked = [compare(path, content, None) for path, content in files.items()]
            return Push(repo, False, unasked, is_asked=False)
        if not get_token():
            raise UserError("A push needs a login: `hf auth login`, lmft.login() or HF_TOKEN.")
        try:
            found = HfApi().model_info(repo, files_metadata=True).siblings or []
            is_new = False
        except RepositoryNotFoundError:
            found, is_new = [], True
    there = {entry.rfilename: entry for entry in found}
    changes = [compare(path, content, there.get(path)) for path, content in files.items()]
    changes += [
        Change(path, "removed", entry.size or 0, None)
        for path, entry in there.items()
        if path not in files and WEIGHTS.fullmatch(path)
    ]
    return Push(repo, is_new, changes)


def compare(path: str, content: Path | bytes, there: object) -> Change:
    """Return what a push does to a file; `there` is the hub's entry of it, None without one."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if there is None:
        return Change(path, "new", size, content)
    lfs = getattr(there, "lfs", None)
    if lfs is None:  # a file of git, by git's hash
        same = getattr(there, "blob_id", None) == digest(content, "sha1", b"blob %d\0" % size)
    else:
        same = lfs.sha256 == digest(content, "sha256")
    return Change(path, "same" if same else "changed", size, content)


def digest(content: Path | bytes, algorithm: str, start: bytes = b"") -> str:
    """Return the hash of `start` and a content, which may be larger than memory."""
    found = hashlib.new(algorithm, start, usedforsecurity=False)
    if isinstance(content, bytes):
        found.update(content)
        return found.hexdigest()
    with content.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def send(push: Push, private: bool, message: str) -> str:
    """Send what a push has to send in one commit; return the commit's address.

    Args:
        push: not empty.
        private: whether a new repository is.
        message: of the commit.

    Raises:
        UserError: the hub can't be reached or refuses it; the repository is as it was.
    """
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationCopy,
        CommitOperationDelete,
        HfApi,
    )

    api = HfApi()
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(c.path, c.content) for c in push.sent if c.content is not None),
        *(CommitOperationDelete(c.path) for c in push.removed),
    ]
    with upload_errors(push.repo):
        if push.is_new:
            api.create_repo(push.repo, private=private, exist_ok=True)
        return str(api.create_commit(push.repo, operations, commit_message=message).commit_url)


@contextmanager
def upload_errors(repo: str) -> Iterator[None]:
    """Explain in one sentence why the body could not send to the repository `repo`.

    Raises:
        UserError: the hub refused it or can't be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for cause in with_causes(error):
            if isinstance(cause, HfHubHTTPError):
                raise UserError(describe_refusal(repo, cause)) from error
            # The library of HTTP below huggingface_hub has changed its name once.
            if isinstance(cause, OfflineModeIsEnabled) or is_of_module(cause, "httpx"):
                raise UserError(
                    "The hub can't be reached; check the network (or unset HF_HUB_OFFLINE), "
                    f"{RETRY}."
                ) from error
        if isinstance(error, ValueError):  # such as an unknown license
            reason = " ".join(str(error).replace("- ", "").split()).rstrip(".")
            raise UserError(f"The hub refuses this for {repo} ({reason}); change it.") from error
        raise


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def is_of_module(error: BaseException, start: str) -> bool:
    """Return whether the class of an error, or one of its bases, is of a module of this name."""
    return any(kind.__module__.startswith(start) for kind in type(error).__mro__)


def describe_refusal(repo: str, error: Exception) -> str:
    """Return in one sentence what the hub answered, an `HfHubHTTPError`, and the way out."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (
            "The hub does not accept this token; log in with another one (`hf auth login`, "
            "lmft.login() or HF_TOKEN)."
        )
    if status in (403, 404):
        return (
            f"The token has no right to write to {repo}; use one that has "
            f"(https://huggingface.co/settings/tokens) or another repo, {RETRY}."
        )
    said = getattr(error, "server_message", None) or f"status {status}"
    reason = str(said).splitlines()[0].rstrip(".")
    return f"The hub did not take the files for {repo} ({reason}); wait a moment, {RETRY}."
