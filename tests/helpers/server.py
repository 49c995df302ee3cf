"""MLflow's own server in a thread: it can stop, lose or replace answers, and ask for a password."""

import base64
import socket
import threading
from contextlib import suppress

from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass


class Server:
    """Serves the store at `uri` (sqlite) on 127.0.0.1; `password` is `user:password`."""

    def __init__(self, uri, monkeypatch, password=None):
        monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", uri)
        monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", uri)
        files = uri.removeprefix("sqlite:///") + "-files"
        monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", files)
        from mlflow.server import app, handlers

        # A server would set MLFLOW_TRACKING_URI, for lmft in this process too.
        monkeypatch.setattr(handlers.utils, "set_tracking_uri", lambda uri: None)
        # MLflow keeps the first store that a process serves.
        monkeypatch.setattr(handlers, "_tracking_store", None)
        monkeypatch.setattr(handlers, "_model_registry_store", None)
        self._app = app
        self._password = password and "Basic " + base64.b64encode(password.encode()).decode()
        self.refused = []  # paths of the requests that were refused
        self.lose = lambda path: False  # whether the answer to a request is lost
        # Called with method and path; returns status and body of an answer in place of MLflow's.
        self.refuse = lambda method, path: None
        self.port = 0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(Exception):  # it was away already
            self.stop()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self._server = make_server(
            "127.0.0.1", self.port, self._answer, threaded=True, request_handler=Quiet
        )
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ, start_response):
        if self._password and environ.get("HTTP_AUTHORIZATION") != self._password:
            self.refused.append(environ["PATH_INFO"])
            start_response("401 Unauthorized", [("Content-Type", "text/plain")])
            return [b"who are you?"]
        refusal = self.refuse(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if refusal is not None:
            status, body = refusal
            self.refused.append(environ["PATH_INFO"])
            start_response(status, [("Content-Type", "text/html")])
            return [body]
        answer = b"".join(self._app(environ, start_response))  # the store has it now
        if self.lose(environ["PATH_INFO"]):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return [answer]
