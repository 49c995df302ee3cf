"""A small Hugging Face hub on the loopback: tests download and upload without a network."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.helpers.hub_upload import Refused, UploadHandler, Uploads, blob_hash, is_lfs

Tree = dict[str, bytes]  # a path in the repository -> the content of that file

API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)"
    r"(?:/(?P<path>.+))?)?"
)
FILE = re.compile(
    r"/(?P<kind>datasets/)?(?P<id>[^/]+(?:/[^/]+)??)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")


class Request(NamedTuple):
    """What a client asked, and how it was answered."""

    method: str
    path: str  # as it stands on the wire, with the query
    status: int


class NotThere(Exception):
    """A repository, revision or file that is missing; `code` is the hub's word for which."""

    def __init__(self, code: str, what: str, commit: str | None = None):
        super().__init__(f"{code}: {what}")
        self.headers = {"X-Error-Code": code, "X-Error-Message": f"no {quote(what)} on this hub"}
        if commit:  # with it, clients remember that this commit lacks the file
            self.headers["X-Repo-Commit"] = commit


class Hub(Uploads, ThreadingHTTPServer):
    """Repositories by name, each with every commit that was seen in its folder."""

    daemon_threads = False  # so that closing waits for the answers under way

    def __init__(self, repositories: dict[str, Path], asked: list[Request], root: Path | None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders, self.asked, self.root = repositories, asked, root
        self.commits: dict[str, dict[str, Tree]] = {name: {} for name in repositories}
        self.objects: dict[str, bytes] = {}  # of LFS, by their sha256
        self.private: set[str] = set()

    def find(self, name: str, revision: str) -> tuple[str, Tree]:
        """The commit that `revision` names, and its files; `main` is the folder as it is now."""
        if name not in self.folders:
            raise NotThere("RepoNotFound", name)
        tree = read_tree(self.folders[name])
        head = tree_hash(tree)
        self.commits[name].setdefault(head, tree)
        commit = head if revision == "main" else revision
        if commit not in self.commits[name]:
            raise NotThere("RevisionNotFound", f"{name}@{revision}")
        return commit, self.commits[name][commit]


class Handler(UploadHandler, BaseHTTPRequestHandler):
    """One request to a `Hub`. HTTP/1.0: no idle connection outlives the hub."""

    server: Hub
    timeout = 30  # seconds; a client that stalls must not keep the tests from ending

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        # Read even where it is not wanted: a socket closed on unread bytes can lose the answer.
        body = self.read_body()
        try:
            if (answer := self.upload(url.path, body)) is not None:
                self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            elif self.command in ("GET", "HEAD") and (match := FILE.fullmatch(url.path)):
                kind = "datasets" if match["kind"] else "models"
                self.send_file(f"{kind}/{match['id']}", match["revision"], match["path"])
            elif match := API.fullmatch(url.path):
                self.send_json(*self.describe(match, parse_qs(url.query or body.decode())))
            else:
                self.send(404, b"", {})
        except NotThere as missing:
            self.send(404, str(missing).encode(), missing.headers)
        except Refused as refused:
            said = {"error": str(refused), "errors": [{"message": str(refused)}]}
            headers = {"X-Error-Message": str(refused), "Content-Type": "application/json"}
            self.send(refused.status, json.dumps(said).encode(), headers)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def describe(self, match: re.Match[str], query: dict[str, list[str]]) -> tuple[str, object]:
        """The commit, and what its API tells: all its paths, a folder's entries, or some paths'."""
        name, folder = f"{match['kind']}/{match['id']}", unquote(match["path"] or "")
        commit, tree = self.server.find(name, unquote(match["revision"] or "main"))
        entries = list_entries(tree)
        match self.command, match["what"]:
            case "GET", None | "revision" if not folder:
                siblings: list[dict[str, object]] = [{"rfilename": path} for path in tree]
                if query.get("blobs"):
                    siblings = [as_sibling(entries[path]) for path in tree]
                about = {"id": match["id"], "private": name in self.server.private}
                return commit, about | {"sha": commit, "siblings": siblings}
            case "GET", "tree" if not folder or folder not in tree and folder in entries:
                above = None if query.get("recursive") == ["true"] else 1
                home = PurePosixPath(folder)
                inside = [p for p in entries if home in PurePosixPath(p).parents[:above]]
                return commit, [entries[path] for path in inside]
            case "POST", "paths-info":
                return commit, [entries[path] for path in query.get("paths", []) if path in entries]
        raise NotThere("EntryNotFound", f"{self.command} {self.path}", commit)

    def send_file(self, name: str, revision: str, path: str) -> None:
        commit, tree = self.server.find(name, unquote(revision))
        if unquote(path) not in tree:
            raise NotThere("EntryNotFound", f"{name}@{commit}/{unquote(path)}", commit)
        content = tree[unquote(path)]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_hash(content)}"'}
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        part = find_range(self.headers.get("Range"), len(content))
        if part is None:
            self.send(200, content, headers)
        elif not part:
            self.send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
            self.send(206, content[part.start : part.stop], headers)

    def send_json(self, commit: str, answer: object) -> None:
        headers = {"X-Repo-Commit": commit, "Content-Type": "application/json"}
        self.send(200, json.dumps(answer).encode(), headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep the request, rather than print it."""
        self.server.asked.append(Request(self.command, self.path, int(code)))


def read_tree(folder: Path) -> Tree:
    """Every file under `folder`, in the order of their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def tree_hash(tree: Tree) -> str:
    """40 hex digits that change when a path or a content changes; this hub's commit."""
    lines = (f"{blob_hash(content)} {path}\n" for path, content in sorted(tree.items()))
    return hashlib.sha1("".join(lines).encode()).hexdigest()


def list_entries(tree: Tree) -> dict[str, dict[str, object]]:
    """Files and folders by path, as the hub's API spells them."""
    entries: dict[str, dict[str, object]] = {}
    for folder in {str(parent) for path in tree for parent in PurePosixPath(path).parents} - {"."}:
        inside = {path: content for path, content in tree.items() if path.startswith(f"{folder}/")}
        entries[folder] = {"type": "directory", "path": folder, "oid": tree_hash(inside)}
    for path, content in tree.items():
        oid, size = blob_hash(content), len(content)
        entries[path] = {"type": "file", "path": path, "oid": oid, "size": size}
        if is_lfs(path):
            found = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
            entries[path]["lfs"] = found
    return dict(sorted(entries.items()))


def as_sibling(entry: dict[str, Any]) -> dict[str, object]:
    """A file as the hub lists it with a repository: names and hashes have other keys there."""
    sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
    if lfs := entry.get("lfs"):
        found = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        sibling["lfs"] = found
    return sibling


def find_range(header: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for, empty if there are none; None is the whole file."""
    match = RANGE.fullmatch(header or "")
    if not match:
        return None
    return range(int(match["first"]), min(size, int(match["last"] or size) + 1))


@contextmanager
def serve_hub(
    repositories: dict[str, Path], asked: list[Request] | None = None, root: Path | None = None
) -> Iterator[str]:
    """Serve folders, named such as "models/gpt2" or "datasets/owner/name"; yield the endpoint.

    Repositories that are created are folders below `root`.

    Every request that is answered is appended to `asked`. A folder that changes makes a new
    commit of `main`; the commits that were asked for before stay what they were.
    """
    with Hub(repositories, [] if asked is None else asked, root) as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{hub.server_port}"
        finally:
            hub.shutdown()
            thread.join()


def client_environment(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a process that knows no hub but `endpoint` and caches in `home`."""
    settings = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return kept | quiet | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}


def wikitext_repository(folder: Path, parquet: Path, rows: int) -> Path:
    """Lay out `folder` as the hub's wikitext: the first `rows` of each split in `parquet`."""
    from pyarrow.parquet import read_table, write_table

    config = "wikitext-2-raw-v1"
    (folder / config).mkdir(parents=True)
    header = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split in ("train", "validation", "test"):
        path = f"{config}/{split}-00000-of-00001.parquet"
        write_table(read_table(parquet / f"{split}.parquet").slice(0, rows), folder / path)
        header += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*header, "---", ""]))
    return folder
