"""A webhook on loopback that answers as it is told to, and keeps what it got."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Webhook:
    """A server that answers with the given codes in turn, the last of them for ever, and keeps what it got."""

    def __init__(self, *codes: int) -> None:
        self.codes, self.got = list(codes), list[dict[str, Any]]()
        self.silence = 0.0

    @contextmanager
    def serving(self) -> Iterator[str]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.got.append(json.loads(body))
                time.sleep(webhook.silence)
                code = webhook.codes.pop(0) if len(webhook.codes) > 1 else webhook.codes[0]
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hooks/a-secret-token"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
