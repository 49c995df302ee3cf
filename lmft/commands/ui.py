"""`lmft ui`: open the MLflow page on the store that runs go to."""

import os
import socket
from argparse import Namespace

from lmft.errors import Fault, UserError
from lmft.tracker.mlflow_page import LOCALHOST, find_page, serve
from lmft.tracker.mlflow_tracker import EXPERIMENT


def main(arguments: Namespace) -> None:
    """Run the command.

    Raises:
        UserError: there is no store yet, or a word is no knob of the verb.
        Fault: the server ends by itself.
    """
    if arguments.words:
        raise UserError(f"lmft ui does not take {arguments.words[0]!r}; see lmft ui --help.")
    named = arguments.tracker_experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    address, command = find_page(arguments.tracker_uri, named or EXPERIMENT, arguments.port)
    print(address, flush=True)
    if not command:
        return
    if not is_free(arguments.port):
        raise UserError(
            f"port is {arguments.port}, which another program uses; choose another, as in "
            f"port={arguments.port + 1}."
        )
    if code := serve(command):
        raise Fault(f"The MLflow server ended with exit code {code}; its own lines say why.")


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port of this machine."""
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex((LOCALHOST, port)) != 0
