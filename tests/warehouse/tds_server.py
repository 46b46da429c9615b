"""What SQL Server's driver can meet before it is logged in: a certificate that it doesn't trust, a login refused.

It speaks as much of TDS as that takes: the first exchange, TLS inside its packets, and one error in answer to the
login. https://learn.microsoft.com/openspecs/windows_protocols/ms-tds
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from pathlib import Path
from types import TracebackType

from tests.certificates import Certified

_PRELOGIN, _REPLY, _LAST = 0x12, 0x04, 0x01
_ENCRYPTED = 1
SECONDS = 10.0


class TdsServer:
    """Listens on 127.0.0.1 until the block ends; answers each login by the error `number`."""

    def __init__(self, certified: Certified, folder: Path, number: int = 18456) -> None:
        (folder / "server.pem").write_text(certified.certificate + certified.key, encoding="ascii")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "server.pem")
        # Of 1.3 the tickets that follow a handshake would have to be sorted out of TDS's packets.
        self._tls.maximum_version = ssl.TLSVersion.TLSv1_2
        self._number = number
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.logins = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> TdsServer:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]  # any callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            connection.settimeout(SECONDS)
            self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                _packet(connection)
                version, encryption = struct.pack(">BBHH", 16, 0, 1000, 0), bytes([_ENCRYPTED])
                options = struct.pack(">BHHBHHB", 0, 11, 6, 1, 17, 1, 0xFF) + version + encryption
                _send(connection, _REPLY, options)
                self._refuse(connection)
            except (OSError, EOFError):
                return  # the driver has heard enough

    def _refuse(self, connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._tls.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    _send(connection, _PRELOGIN, outgoing.read())
                incoming.write(_packet(connection))
        _send(connection, _PRELOGIN, outgoing.read())
        while True:  # from here on packets are inside TLS, no more around it
            try:
                if not tls.read(65536):
                    return
                break
            except ssl.SSLWantReadError:
                incoming.write(_some(connection))
        self.logins += 1
        tls.write(_packed(_REPLY, _error(self._number)))
        connection.sendall(outgoing.read())
        connection.recv(1)  # until the driver hangs up


def _error(number: int) -> bytes:
    text, server = f"error {number} as the server tells it".encode("utf-16-le"), "srv".encode("utf-16-le")
    body = struct.pack("<iBB", number, 1, 14)
    body += struct.pack("<H", len(text) // 2) + text + bytes([len(server) // 2]) + server + b"\x00"
    body += struct.pack("<i", 1)
    done = struct.pack("<BHHQ", 0xFD, 2, 0, 0)
    return b"\xaa" + struct.pack("<H", len(body)) + body + done


def _packed(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BBHHBB", kind, _LAST, 8 + len(payload), 0, 1, 0) + payload


def _send(connection: socket.socket, kind: int, payload: bytes) -> None:
    connection.sendall(_packed(kind, payload))


def _packet(connection: socket.socket) -> bytes:
    header = _exactly(connection, 8)
    return _exactly(connection, struct.unpack(">H", header[2:4])[0] - 8)


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += _some(connection, count - len(received))
    return received


def _some(connection: socket.socket, count: int = 65536) -> bytes:
    received = connection.recv(count)
    if not received:
        raise EOFError
    return received
