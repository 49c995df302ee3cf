"""What the loopback hub does with uploads, by the calls that huggingface_hub makes."""

import base64
import hashlib
import json
import re
from http.client import HTTPMessage
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import yaml

LFS = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
COMMIT = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
WHO = {"name": "me", "type": "user", "auth": {"accessToken": {"displayName": "t", "role": "write"}}}


class Refused(Exception):
    """An upload that the hub does not take."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Uploads:
    """The repositories that uploads make and change."""

    folders: dict[str, Path]
    commits: dict[str, Any]
    objects: dict[str, bytes]
    private: set[str]
    root: Path | None
    server_port: int

    def create(self, name: str, visibility: str | None) -> None:
        """Make an empty repository."""
        if name in self.folders:
            raise Refused(409, "You already created this model repo")
        assert self.root is not None
        self.folders[name], self.commits[name] = self.root / name, {}
        self.folders[name].mkdir(parents=True)
        if visibility == "private":
            self.private.add(name)

    def commit(self, name: str, body: bytes) -> str:
        """Change the files of a repository as a commit says; returns its name."""
        folder = self.folders[name]
        for line in body.splitlines():
            entry = json.loads(line)
            kind, value = entry["key"], entry["value"]
            if kind == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                (folder / value["path"]).write_bytes(self.objects[value["oid"]])
            elif kind == "deletedFile":
                (folder / value["path"]).unlink()
        return self.find(name, "main")[0]


class UploadHandler:
    """One request that may be of an upload."""

    server: Any
    command: str
    headers: HTTPMessage
    rfile: BufferedIOBase

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def check_token(self, role: str) -> None:
        """Tokens of this hub are hf_ and their role, and more letters."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token.startswith(("hf_read", "hf_write")):
            raise Refused(401, "Invalid credentials in Authorization header")
        if role == "write" and not token.startswith("hf_write"):
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")

    def upload(self, path: str, body: bytes) -> object | None:
        """The answer to a call that uploads, as huggingface_hub makes them; None for another."""
        if self.command == "GET":
            if path != "/api/whoami-v2":
                return None
            self.check_token("read")
            return WHO
        if path.startswith("/object/"):
            self.server.objects[path.rpartition("/")[2]] = body
            return {}
        if path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            if metadata.get("license", "mit") not in ("mit", "apache-2.0"):
                raise Refused(400, '"license" must be one of mit, apache-2.0')
            return {"warnings": []}
        if path == "/api/repos/create":
            self.check_token("write")
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.create(f"models/{name}", asked.get("visibility"))
            return {"url": f"{self.address}/{name}", "name": name}
        if match := LFS.fullmatch(path):
            self.check_token("write")
            return {
                "transfer": "basic",
                "objects": [*map(self.action, json.loads(body)["objects"])],
            }
        match = COMMIT.fullmatch(path)
        if not match:
            return None
        self.check_token("write")
        name = f"models/{match['id']}"
        if match["what"] == "preupload":
            _, tree = self.server.find(name, "main")
            return {"files": [preupload(file, tree) for file in json.loads(body)["files"]]}
        commit = self.server.commit(name, body)
        return {"commitUrl": f"{self.address}/{match['id']}/commit/{commit}", "commitOid": commit}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def action(self, file: dict[str, Any]) -> dict[str, Any]:
        """Where a client is to put an object of LFS; nowhere if it is there."""
        href = f"{self.address}/object/{file['oid']}"
        known = file["oid"] in self.server.objects
        return file | ({} if known else {"actions": {"upload": {"href": href}}})


def preupload(file: dict[str, Any], tree: dict[str, bytes]) -> dict[str, Any]:
    """How a file is to be uploaded, and the hash of the one that is there."""
    path = file["path"]
    mode = "lfs" if is_lfs(path) else "regular"
    oid = blob_hash(tree[path]) if path in tree else None
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def blob_hash(content: bytes) -> str:
    """The name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
