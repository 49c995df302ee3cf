"""The Hugging Face hub: which commit is meant, and what to say when something can't be had."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from lmft.errors import UserError


@cache
def resolve_commit(name: str, revision: str, kind: str) -> str:
    """The commit that `revision` of the hub's `kind` (model or dataset) `name` stands for now.

    Offline, it is the one that the hub's local cache has under that revision.
    """
    from huggingface_hub import resolve_revision

    with hub_errors(f"{kind} {name!r}"):
        return str(resolve_revision(name, repo_type=kind, revision=revision).resolved)


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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"The {what} can't be loaded ({reason}); check its name.") from error
