"""A server that answers but refuses is named at the start, and delays no run at its end."""

import time

import pytest

from lmft.errors import StoreUnavailable
from lmft.tracker import background
from lmft.tracker.mlflow_store import open_client
from lmft.tracker.mlflow_tracker import MlflowTracker
from tests.helpers.processes import wait_for

# MLflow's server is built on it.
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")

READS = ("/search", "/get", "/get-by-name", "/artifacts/list")
DENIED = "403 FORBIDDEN", b"Permission denied"  # as MLflow's own server with users answers
LOGIN = "200 OK", b"<html>Sign in</html>"


def writes(answer):
    """Refuse whatever changes the store."""
    return lambda method, path: None if path.endswith(READS) else answer


def artifacts(answer):
    """Refuse files, to read and to write."""
    return lambda method, path: answer if "artifacts" in path else None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (DENIED, "does not let you write: 403, the right to edit is missing"),
        (("401 UNAUTHORIZED", b"who?"), "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (("404 NOT FOUND", b"nothing here"), "does not answer as an MLflow server: 404 Not Found"),
        (("200 OK", b'{"detail": 1'), "does not answer as an MLflow server"),
        (("404 NOT FOUND", b'{"detail": "none"}'), "does not answer as an MLflow server"),
        (LOGIN, "web page, as of a login"),
        (("503 SERVICE UNAVAILABLE", b"later"), "does not answer: 503 Service Unavailable"),
    ],
)
def test_what_a_server_refuses_is_said_at_the_start(server, answer, words):
    server.refuse = writes(answer)
    with pytest.raises(StoreUnavailable) as refusal:
        MlflowTracker(server.uri, "refused").check()
    assert words in str(refusal.value) and server.uri in str(refusal.value)
    assert "tracker=none" in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_address_without_tls_is_said(server):
    with pytest.raises(StoreUnavailable, match="gives no TLS connection.*try http://"):
        MlflowTracker(server.uri.replace("http:", "https:"), "refused").check()


@pytest.mark.parametrize("answer", [DENIED, LOGIN])
def test_a_server_that_refuses_in_the_middle_delays_no_end_and_loses_nothing(
    server, store, record, caplog, answer
):
    tracker = MlflowTracker(server.uri, "halfway")
    with tracker.track_run(record) as log:
        log.log_metrics({"loss": 0.0}, 0)
        wait_for(lambda: [run for run in store.runs_of(record.path) if run.data.metrics])
        server.refuse = writes(answer)
        log.log_metrics({"loss": 1.0}, 1)
        wait_for(lambda: "does not accept the upload" in caplog.text)
        wait_for(lambda: len(server.refused) >= background.MAX_REFUSALS)
        time.sleep(10 * background.UPLOAD_INTERVAL)
        assert len(server.refused) == background.MAX_REFUSALS  # and then waits
        ended = time.monotonic()
    assert time.monotonic() - ended < 2
    assert caplog.text.count("does not accept the upload") == 1
    assert f"lmft sync {record.path.name} sends them" in caplog.text
    server.refuse = lambda method, path: None
    assert tracker.upload(record.path, "FINISHED") >= 1
    store.check_points(record.path)
    assert store.run_of(record.path).info.status == "FINISHED"


def test_a_server_that_fails_at_each_write_is_given_up(server, record, caplog, monkeypatch):
    """It answers what is read, which must not count as progress."""
    monkeypatch.setattr(background, "GIVE_UP_AFTER", 1.0)
    tracker = MlflowTracker(server.uri, "failing")
    tracker.check()
    server.refuse = writes(("500 INTERNAL SERVER ERROR", b"disk full"))
    with tracker.track_run(record) as log:
        log.log_metrics({"loss": 0.0}, 0)
        ended = time.monotonic()
    assert time.monotonic() - ended < 5
    assert len(server.refused) > 1 and "wait in its folder" in caplog.text


def test_a_server_that_refuses_files_alone_gets_all_else_and_the_files_later(
    server, store, record, caplog, monkeypatch, tmp_path
):
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")  # by HTTP, not to a shared folder
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(tmp_path / "served"))
    tracker = MlflowTracker(server.uri, "no files")
    server.refuse = artifacts(DENIED)
    with tracker.track_run(record) as log:
        log.log_text("a text", "samples_before.txt")
        log.log_metrics({"loss": 1.0}, 1)
    store.check_points(record.path)
    assert store.run_of(record.path).info.status == "FINISHED"
    assert caplog.text.count("but not its files (403") == 1
    assert "does not accept" not in caplog.text
    local = MlflowTracker(store.uri, "no files")
    assert not tracker.is_up_to_date(record.path) and not local.is_up_to_date(record.path)
    server.refuse = lambda method, path: None
    tracker.upload(record.path, "FINISHED")
    assert tracker.is_up_to_date(record.path) and local.is_up_to_date(record.path)
    (artifact,) = open_client(server.uri).list_artifacts(store.run_of(record.path).info.run_id)
    assert artifact.path == "samples_before.txt"
