"""A chat endpoint on this machine that answers as a test wants it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

Reply = tuple[int, dict[str, str], Any]


@dataclass
class ChatServer:
    """A chat endpoint; `answer` gets each request's body and its number, counted from 0."""

    answer: Callable[[dict[str, Any], int], Reply]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def completion(text: str | None, prompt: int = 1000, written: int = 100) -> Reply:
    usage = {"prompt_tokens": prompt, "completion_tokens": written}
    return 200, {}, {"choices": [{"message": {"content": text}}], "usage": usage}


@contextmanager
def chat_server(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[ChatServer]:
    chat = ChatServer(answer)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                chat.bodies.append(body)
                chat.headers.append(dict(self.headers) | {"path": self.path})
                status, headers, content = chat.answer(body, len(chat.bodies) - 1)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        with mock.patch.dict(os.environ, {"NO_PROXY": "127.0.0.1"}):
            yield chat
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
