"""A W&B server on 127.0.0.1: enough for the unmodified command line, agent and online runs."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.wandb_state import ENTITY, PROJECT, WandbState


class WandbBackend:
    """The server, as a context manager.

    Attributes:
        state: what it was told.
        files: bytes of every uploaded file, by its path.
        delay: seconds that each answer takes, for a slow service.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.delay = 0.0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.state = WandbState(self.url)

    def __enter__(self) -> WandbBackend:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that send wandb here, and keep all of its own files in `folder`."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "a" * 40,
            "WANDB_ENTITY": ENTITY,
            "WANDB_PROJECT": PROJECT,
            **private(folder),
        }


def private(folder: Path) -> dict[str, str]:
    """Variables that keep wandb's own files in `folder`, and its reports at home."""
    places = {f"WANDB_{k.upper()}_DIR": str(folder / k) for k in ("config", "cache", "data")}
    return {**places, "WANDB_ERROR_REPORTING": "false"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that ended drops its connections; whatever else fails is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(backend: WandbBackend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

        def _body(self) -> bytes:
            time.sleep(backend.delay)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            packed = self.headers.get("Content-Encoding") == "gzip"
            return gzip.decompress(body) if packed else body

        def _reply(self, content: Any, code: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            path = urlsplit(self.path).path
            backend.files[path.removeprefix("/upload/")] = self._body()
            self._reply({})

        def do_POST(self) -> None:
            body = self._body()
            if self.path.rstrip("/").endswith("/graphql"):
                asked = json.loads(body)
                data = backend.state.answer(asked["query"], asked.get("variables") or {})
                if data is None:
                    return self._reply({"errors": [{"message": "not supported here"}]}, 400)
                return self._reply({"data": data})
            if "file_stream" in self.path:
                return self._reply(backend.state.stream(self.path.split("/")[-2], json.loads(body)))
            return self._reply({})

    return Handler
