"""Stand-ins for Azure's storage: it refuses, or takes connections and says nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HEAD = ("HTTP/1.1 403 Forbidden", "x-ms-error-code: AuthenticationFailed", "Content-Length: 0", "Connection: close")
KEY = "c2VjcmV0LWtleQ=="
REFUSAL = "\r\n".join((*_HEAD, "", "")).encode()


def connection_string(port: int) -> str:
    """By which adlfs reaches a storage account there."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port that takes connections and gives each the same answer, or none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                taken.append(connection)
                if answer is not None:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in taken:
                connection.close()
