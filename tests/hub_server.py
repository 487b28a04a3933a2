"""A Hub on 127.0.0.1: the part of its API that downloads, `model_info`, `create_repo` and `create_commit` speak.

Weights come as they do to the Hub, by Git LFS: the batch endpoint says where to, a PUT takes them there, and the commit
only names them. Xet, which the client would rather use, is kept off: it is another protocol, to other servers.

huggingface_hub reads HF_ENDPOINT when it is imported: conftest.py sets it before, and a process that a test starts gets
`hub.environment()`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hub_rules import refusals

TOKEN = "hf_OfThisTestAndNoOther0123456789"


class HubServer:
    """Repositories of models, each a list of commits; `requests` holds "METHOD path" of all that came, and `objects`
    the large files that were put here by LFS, by SHA-256.

    `faults` maps such a request (its path may be cut short) to the statuses that it gets, one after the other.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.faults: dict[str, list[int]] = {}
        self.objects: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
        self._server.server_bind()  # a port; until the block begins, nobody listens there
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, home: Path | None = None) -> dict[str, str]:
        """Variables of a process that asks this Hub; with `home`, its token too, and that folder for the cache."""
        user = {"HF_HOME": str(home), "HF_TOKEN": TOKEN} if home else {}
        return {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1", **user}

    def clear(self) -> None:
        """Forget all repositories, large files, faults and requests."""
        self.repos, self.private, self.requests, self.faults, self.objects = {}, set(), [], {}, {}

    def commit(self, repo: str, files: Mapping[str, bytes] | Path, deleted: tuple[str, ...] = ()) -> str:
        """Add files, or those of a folder, to a repository, which is made if need be; the commit's hash."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir()}
        history = self.repos.setdefault(repo, [])
        content = {**(history[-1][1] if history else {}), **files}
        content = {name: data for name, data in content.items() if name not in deleted}
        known = [(name, _oid(name, data)) for name, data in sorted(content.items())]  # the client caches by this hash
        sha = hashlib.sha1(f"{repo} {len(history)} {known}".encode()).hexdigest()
        history.append((sha, content))
        return sha

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Content by name; KeyError where there is no such repository or revision."""
        return self.at(repo, revision)[1]

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        history = self.repos[repo]
        if revision == "main":
            return history[-1] if history else ("0" * 40, {})
        return dict((sha, (sha, files)) for sha, files in history)[revision]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802 - http.server's name
        self._read(body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._read(body=True)

    def do_POST(self) -> None:  # noqa: N802
        path, body = self._request()
        if self._fails() or not self._is_known():
            return None
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            exists = repo in self.hub.repos
            self.hub.repos.setdefault(repo, [])
            if not exists and (wanted.get("private") or wanted.get("visibility") == "private"):
                self.hub.private.add(repo)
            return self._json({"url": f"{self.hub.endpoint}/{repo}", "name": repo}, 409 if exists else 200)
        if path == "/api/validate-yaml":
            errors = [{"message": message} for message in refusals(json.loads(body)["content"])]
            return self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        batch = re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
        if batch and batch[1] in self.hub.repos:
            objects = [{**wanted, **self._upload(wanted["oid"])} for wanted in json.loads(body)["objects"]]
            return self._json({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path)
        if found is None or found[1] not in self.hub.repos:
            return self._missing("RepoNotFound")
        if found[2] == "preupload":
            held = self.hub.at(found[1], "main")[1]
            files = [{"path": name, "uploadMode": "lfs" if _is_large(name) else "regular", "shouldIgnore": False,
                      "oid": _oid(name, held[name]) if name in held else None}
                     for name in (file["path"] for file in json.loads(body)["files"])]
            return self._json({"files": files})
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        values = {key: [line["value"] for line in lines if line["key"] == key]
                  for key in ("file", "lfsFile", "deletedFile")}
        absent = [value["path"] for value in values["lfsFile"] if value["oid"] not in self.hub.objects]
        if absent or any(_is_large(value["path"]) for value in values["file"]):
            return self._json({"error": f"{absent} not uploaded, or not by LFS"}, 422)
        added = {value["path"]: base64.b64decode(value["content"]) for value in values["file"]}
        added |= {value["path"]: self.hub.objects[value["oid"]] for value in values["lfsFile"]}
        sha = self.hub.commit(found[1], added, tuple(value["path"] for value in values["deletedFile"]))
        self._json({"commitUrl": f"{self.hub.endpoint}/{found[1]}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    def do_PUT(self) -> None:  # noqa: N802
        path, body = self._request()
        if self._fails():
            return None
        oid = path.removeprefix("/lfs/")
        if oid != hashlib.sha256(body).hexdigest():
            return self._json({"error": "not the object that was announced"}, 400)
        self.hub.objects[oid] = body
        self._json({})

    def _upload(self, oid: str) -> dict:
        """What the batch endpoint says of an object: where to put it, or nothing where it is here already."""
        here = oid in self.hub.objects
        return {} if here else {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{oid}?Signature=secret"}}}

    def _read(self, body: bool) -> None:
        path, _ = self._request()
        if self._fails():
            return None
        if path == "/api/whoami-v2":
            return self._json({"type": "user", "name": "me"}) if self._is_known() else None
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo, revision = (about or file).group(1, 2) if about or file else (None, None)
        if repo not in self.hub.repos:
            return self._missing("RepoNotFound")
        try:
            sha, files = self.hub.at(repo, revision or "main")
        except KeyError:
            return self._missing("RevisionNotFound")
        if about:
            siblings = [{"rfilename": name} for name in files]
            private = repo in self.hub.private
            return self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "private": private})
        if file[3] not in files:
            return self._missing("EntryNotFound", {"X-Repo-Commit": sha})
        data = files[file[3]]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        self._answer(200, data, headers, body)

    def _is_known(self) -> bool:
        """Whether the request has the right token; answers it if not."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json({"error": f"Invalid credentials {self.headers.get('Authorization')}"}, 401)
        return False

    def _fails(self) -> bool:
        """Whether `faults` has this request fail, which answers it."""
        line = self.hub.requests[-1]
        faults = next((faults for start, faults in self.hub.faults.items() if faults and line.startswith(start)), None)
        status = faults.pop(0) if faults else None
        if status:
            self._json({"error": f"told to fail, {self.headers.get('Authorization')}"}, status)
        return bool(status)

    def _request(self) -> tuple[str, bytes]:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        return path, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, content: dict, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._answer(404, b"{}", {**(headers or {}), "X-Error-Code": code}, self.command != "HEAD")

    def _answer(self, status: int, data: bytes, headers: Mapping[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *message) -> None:  # the tests' output is no server log
        pass


def _is_large(name: str) -> bool:
    """Whether the Hub keeps a file outside of git; by its .gitattributes, whatever the size."""
    return name.endswith(".safetensors")


def _oid(name: str, data: bytes) -> str:
    """By what the client knows a file that is there already: large ones by SHA-256, others by git's hash."""
    if _is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
