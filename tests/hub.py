"""A Hugging Face hub on loopback: what its unmodified client asks for when it loads a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 39 + "1"


@contextmanager
def hub(root: Path) -> Iterator[str]:
    """Serve ``root/<owner>/<name>/`` as repositories of models and of data sets; the address, for
    ``HF_ENDPOINT``."""

    class Repositories(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            if path.startswith(("api/models/", "api/datasets/")):
                owner, name, *rest = path.split("/")[2:]
                folder = root / owner / name
                files = [f.name for f in folder.iterdir()] if folder.is_dir() else None
                if files is None:
                    return self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
                listing: Any = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}
                listing["siblings"] = [{"rfilename": file} for file in files]
                if rest[:1] == ["tree"]:
                    listing = [{"type": "file", "path": f, "oid": f, "size": 1} for f in files]
                return self._send(200, json.dumps(listing).encode(), body)
            parts = path.removeprefix("datasets/").split("/")
            owner, name, resolve, _, *file = [*parts, "", "", ""]
            file = [part for part in file if part]
            found = root / owner / name / "/".join(file)
            if resolve != "resolve" or not found.is_file():
                headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                return self._send(404, b"", body, headers)
            content = found.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def _send(
            self, code: int, content: bytes, body: bool, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Repositories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
