"""Whether the Hugging Face Hub and the MLflow store answer, each asked in a thread of its own."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

from lmft.analysis.doctor.findings import Fact, Finding, Found, Kind
from lmft.analysis.doctor.places import check_database
from lmft.errors import UserError
from lmft.output.sanitize import redact
from lmft.storage.hub import find_local_folder
from lmft.tracker.mlflow_errors import load_mlflow
from lmft.tracker.mlflow_store import check_uri, open_client, sqlite_path, store_uri
from lmft.tracker.mlflow_tracker import MlflowTracker

TIMEOUT = 3  # seconds, of a request
LIMIT = 10  # seconds, of all else: names that are not resolved, on a machine that may be busy


class Answer:
    """What a function that waits for others finds; it is called in a thread at once."""

    def __init__(
        self,
        ask: Callable[[], list[Fact | Finding]],
        otherwise: list[Fact | Finding],
        load: Callable[[], object] = lambda: None,
    ):
        """Start asking.

        Args:
            ask: what to call.
            otherwise: what is found if it does not return in time.
            load: called first, for what may take longer: imports.
        """
        self._ask, self._found, self._load = ask, otherwise, load
        self._loaded = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._load()
        finally:
            self._loaded.set()
        self._found = self._ask()

    def wait(self) -> list[Fact | Finding]:
        """Return what is found, once it is, or after some seconds."""
        self._loaded.wait()
        self._thread.join(LIMIT)
        return self._found


def ask_hub(needed: dict[str, str]) -> Answer:
    """Ask the hub, unless HF_HUB_OFFLINE is set.

    Args:
        needed: names of repositories that a run needs -> model or dataset.
    """
    from huggingface_hub import constants, get_token

    account = "logged in" if get_token() else "not logged in"
    late = [*out_of_reach(constants.ENDPOINT, f"no answer in {LIMIT} s", account, needed)]
    return Answer(lambda: _ask_hub(account, needed), late)


def _ask_hub(account: str, needed: dict[str, str]) -> list[Fact | Finding]:
    from huggingface_hub import constants, get_session, get_token
    from huggingface_hub.utils._headers import build_hf_headers

    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return [*out_of_reach(hub, "offline by HF_HUB_OFFLINE", account, needed)]
    path = "whoami-v2" if get_token() else "models?limit=1"
    try:
        answer = get_session().get(f"{hub}/api/{path}", headers=build_hf_headers(), timeout=TIMEOUT)
    except Exception as error:  # of whichever library it uses
        return [*out_of_reach(hub, type(error).__name__, account, needed)]
    if answer.status_code == 401:
        what = f"{hub} does not accept the token of this login"
        return [Fact("hub", f"{hub} answers, with a token that it refuses"),
                Finding(Kind.note, f"{what}; `hf auth login` replaces it.")]  # fmt: skip
    if answer.status_code >= 400:
        return [*out_of_reach(hub, f"status {answer.status_code}", account, needed)]
    name = f"logged in as {answer.json().get('name')}" if get_token() else account
    return [Fact("hub", f"{hub} answers, {name}")]


def out_of_reach(hub: str, reason: str, account: str, needed: dict[str, str]) -> Found:
    """Yield that the hub can't be asked, and what a run therefore lacks."""
    yield Fact("hub", f"{hub} is out of reach ({reason}), {account}")
    for name, kind in needed.items():
        if not is_cached(name, kind):
            yield Finding(
                Kind.missing,
                f"The {kind} {name!r} is not in the hub's local cache, and the hub can't be "
                "reached; check the network, or name a local folder.",
            )


def is_cached(name: str, kind: str) -> bool:
    """Return whether the hub's local cache has some revision of a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=kind))
    return any(folder.glob("snapshots/*/*"))


def repositories(values: dict[str, Any]) -> dict[str, str]:
    """Return the repositories of the hub that a run needs: name -> model or dataset."""
    needed = {}
    for knob in ("name", "tokenizer"):
        name = values["model"][knob]
        if name not in (None, "corpus") and find_local_folder(name, f"model.{knob}") is None:
            needed[name] = "model"
    source = values["dataset"]["source"]
    if source["_target_"].endswith(".HubDataset"):
        needed[source["name"]] = "dataset"
    return needed


def ask_tracker(tracker: Any) -> Answer:
    """Ask the tracker's store; a SQLite file is only looked at."""
    if not isinstance(tracker, MlflowTracker):
        return Answer(lambda: [Fact("tracker", tracker.describe())], [])
    where = redact(tracker.describe())
    late = Finding(Kind.missing, f"{where} does not answer in {LIMIT} s; set tracker=none.")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT))
    is_remote = sqlite_path(store_uri(tracker.uri)) is None
    return Answer(
        lambda: _ask_store(tracker, where),
        [Fact("tracker", where), late],
        (lambda: load_mlflow().MlflowClient) if is_remote else (lambda: None),
    )


def _ask_store(tracker: MlflowTracker, where: str) -> list[Fact | Finding]:
    uri = store_uri(tracker.uri)
    path = sqlite_path(uri)
    try:
        check_uri(uri)
        if path is None:
            open_client(uri)
    except UserError as error:
        return [Fact("tracker", where), Finding(Kind.missing, str(error))]
    if path is None:
        return [Fact("tracker", f"{where} answers")]
    state = "there" if path.exists() else "made by the first run"
    return [Fact("tracker", f"{where}, {state}"), *check_database(path)]
