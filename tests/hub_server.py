"""A Hub on 127.0.0.1: the part of its API that downloads, `create_repo` and `create_commit` speak.

huggingface_hub reads HF_ENDPOINT when it is imported, so what is to use this Hub runs in a process of its own:

    with HubServer() as hub:
        hub.commit("somebody/model", {"config.json": b"{}"})
        subprocess.run(..., env={**os.environ, **hub.environment(tmp_path)})
        hub.files("somebody/model")["README.md"]
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "hf_of_this_test"


class HubServer:
    """Repositories of models, each a list of commits; `requests` holds "METHOD path" of all that came."""

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a process that uses this Hub, with its cache in the folder `home`."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}

    def commit(self, repo: str, files: Mapping[str, bytes] | Path, deleted: tuple[str, ...] = ()) -> str:
        """Add files, or those of a folder, to a repository, which is made if need be; the commit's hash."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir()}
        history = self.repos.setdefault(repo, [])
        content = {**(history[-1][1] if history else {}), **files}
        content = {name: data for name, data in content.items() if name not in deleted}
        sha = hashlib.sha1(f"{repo} {len(history)} {sorted(content)}".encode()).hexdigest()
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
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            exists = repo in self.hub.repos
            self.hub.repos.setdefault(repo, [])
            return self._json({"url": f"{self.hub.endpoint}/{repo}", "name": repo}, 409 if exists else 200)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path)
        if found is None or found[1] not in self.hub.repos:
            return self._missing("RepoNotFound")
        if found[2] == "preupload":  # `regular` keeps the client from LFS and Xet
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]
            return self._json({"files": files})
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        added = {line["value"]["path"]: base64.b64decode(line["value"]["content"])
                 for line in lines if line["key"] == "file"}
        deleted = tuple(line["value"]["path"] for line in lines if line["key"] == "deletedFile")
        sha = self.hub.commit(found[1], added, deleted)
        self._json({"commitUrl": f"{self.hub.endpoint}/{found[1]}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    def _read(self, body: bool) -> None:
        path, _ = self._request()
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
            return self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "private": False})
        if file[3] not in files:
            return self._missing("EntryNotFound", {"X-Repo-Commit": sha})
        data = files[file[3]]
        etag = hashlib.sha1(data).hexdigest()
        self._answer(200, data, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}, body)

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
