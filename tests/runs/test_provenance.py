"""Where a run comes from."""

from lmft.runs.provenance import log_other_versions


def test_a_run_that_other_code_began_says_so(caplog):
    caplog.set_level("INFO")
    begun = {"mlflow.source.git.commit": "1234", "version.torch": "2.11.0", "other": "a"}
    log_other_versions(begun, begun | {"other": "b"})
    log_other_versions({}, begun)
    assert not caplog.messages
    log_other_versions(begun, begun | {"mlflow.source.git.commit": "5678"})
    assert caplog.messages == [
        "begun with commit 1234 and resumed with 5678: the last bits may be those of neither"
    ]
