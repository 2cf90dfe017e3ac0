"""An OpenAI-compatible chat endpoint on loopback, whose answers are a function of the request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server sends: a completion of `text`, unless `body` says something else."""

    text: str | None = "yes"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    seconds: float = 0.0  # before it answers
    cut: bool = False  # the connection ends half-way through the body
    top_logprobs: list[dict[str, float]] | None = None  # one dictionary per token
    message: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"

    def content(self, request: dict[str, Any]) -> bytes:
        if self.body is not None:
            return self.body
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish_reason}
        choice["message"] = {"role": "assistant", "content": self.text, **self.message}
        if self.top_logprobs is not None:
            tokens = [
                {"token": max(t, key=t.__getitem__), "logprob": max(t.values()), "top_logprobs":
                 [{"token": k, "logprob": v} for k, v in t.items()]}
                for t in self.top_logprobs
            ]  # fmt: skip
            choice["logprobs"] = {"content": tokens}
        words = sum(len(m["content"].split()) for m in request["messages"])
        said = len((self.text or "").split())
        usage = {
            "prompt_tokens": words,
            "completion_tokens": said,
            "total_tokens": words + said,
        }
        return json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()


class ChatServer:
    """What the server has seen: `requests` are the bodies, `headers` theirs, in order."""

    def __init__(self, url: str):
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0


Rule = Callable[[dict[str, Any], int], Reply]


@contextmanager
def chat_server(rule: Rule) -> Iterator[ChatServer]:
    """Serve ``/v1/chat/completions``; ``rule(body, n)`` answers the n-th request, from 0."""
    lock = threading.Lock()

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(size))
            with lock:
                number = len(seen.requests)
                seen.requests.append(body)
                seen.headers.append(dict(self.headers))
                seen.times.append(time.monotonic())
                seen.under_way += 1
                seen.most_under_way = max(seen.most_under_way, seen.under_way)
            try:
                reply = self._reply(body, number)
            finally:
                with lock:  # before it is sent: the client may ask again as soon as it has it
                    seen.under_way -= 1
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has gone
                self._send(body, reply)

        def _reply(self, body: dict[str, Any], number: int) -> Reply:
            known = self.path == "/v1/chat/completions"
            reply = rule(body, number) if known else Reply(status=404, body=b"no such path")
            time.sleep(reply.seconds)
            return reply

        def _send(self, body: dict[str, Any], reply: Reply) -> None:
            content = reply.content(body)
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if reply.cut else content)
            if reply.cut:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Chat)
    seen = ChatServer(f"http://127.0.0.1:{server.server_port}/v1")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
