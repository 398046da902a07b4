"""A hub on this machine: as much of the protocol of huggingface.co as pushing and fetching a model take."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlparse


class Hub:
    """Its address, and its repositories: {"user/name": {file: bytes}}."""

    def __init__(self):
        self.repositories, self.asked, self.address = {}, [], ""


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, body=b"", status=200, **headers):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", headers.get("size", len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self):
            hub.asked.append((self.command, self.path))
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "Authorization" not in self.headers:
                return self.answer({"error": "Invalid credentials"}, 401)
            parts = urlparse(self.path).path.strip("/").split("/")
            if parts == ["api", "repos", "create"]:
                asked = json.loads(sent)
                name = f"{asked.get('organization') or 'user'}/{asked['name']}"
                hub.repositories.setdefault(name, {})
                return self.answer({"url": f"{hub.address}/{name}", "id": name})
            if parts == ["api", "validate-yaml"]:
                return self.answer({"errors": [], "warnings": []})
            name = "/".join(parts[2:4])
            if parts[4] == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(sent)["files"]
                ]
                return self.answer({"files": files})
            if parts[4] == "commit":
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
                return self.answer(
                    {
                        "commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}",
                        "commitOid": "0" * 40,
                        "pullRequestUrl": None,
                    }
                )
            return self.answer({"error": "no such thing"}, 404)

        def do_GET(self):
            hub.asked.append((self.command, self.path))
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            about = parts[:2] == ["api", "models"]
            files = hub.repositories.get("/".join(parts[2:4] if about else parts[:2]))
            if files is None:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            if about and parts[4] == "tree":
                oid = "0" * 40
                return self.answer([{"type": "file", "path": p, "size": len(c), "oid": oid} for p, c in files.items()])
            if about:
                siblings = [{"rfilename": file} for file in files]
                return self.answer(
                    {
                        "id": "/".join(parts[2:4]),
                        "sha": "0" * 40,
                        "siblings": siblings,
                        "tags": [],
                        "private": False,
                        "downloads": 0,
                        "likes": 0,
                    }
                )
            file = files.get("/".join(parts[4:]))
            if file is None:
                return self.answer(
                    {"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40
                )
            return self.answer(file, ETag=f'"{hashlib.sha1(file).hexdigest()}"', X_Repo_Commit="0" * 40)

        do_HEAD = do_GET

    return Handler


@contextmanager
def serving():
    """A hub, while the context lasts."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
