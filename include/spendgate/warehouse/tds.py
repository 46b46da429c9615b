"""Whether SQL Server is what listens somewhere, told by its answer to the first message of its protocol.

The driver calls whatever goes wrong before the login by one SQLSTATE, be it a server that is away or one that isn't
SQL Server at all. https://learn.microsoft.com/openspecs/windows_protocols/ms-tds (2.2.6.5, PRELOGIN)
"""

from __future__ import annotations

import socket
import struct
import threading
from enum import Enum

SECONDS = 3.0
DEFAULT_PORT = 1433

_PRELOGIN, _REPLY, _LAST = 0x12, 0x04, 0x01
# Two options, each a token, an offset and a length, and the terminator: a version, and "no encryption for now".
_OPTIONS = struct.pack(">BHHBHHB", 0, 11, 6, 1, 17, 1, 0xFF) + bytes(6) + b"\x00"
_MESSAGE = struct.pack(">BBHHBB", _PRELOGIN, _LAST, 8 + len(_OPTIONS), 0, 1, 0) + _OPTIONS


class Listener(Enum):
    """What there is at an address."""

    SQL_SERVER = "sql server"
    ANOTHER = "another"  # it answered, and not as SQL Server does
    MUTE = "mute"  # it took the connection and said nothing, or hung up: another, or a server that is only starting
    NOBODY = "nobody"


def ask(host: str, port: int | None, seconds: float = SECONDS) -> Listener:
    """What listens at `host`, within `seconds` however long names take to resolve; `NOBODY` if that isn't enough."""
    answer = [Listener.NOBODY]

    def run() -> None:
        try:
            answer[0] = _ask(host, port or DEFAULT_PORT, seconds)
        except OSError:
            answer[0] = Listener.NOBODY

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(seconds)
    return answer[0]


def _ask(host: str, port: int, seconds: float) -> Listener:
    with socket.create_connection((host, port), timeout=seconds / 2) as connection:
        try:
            connection.sendall(_MESSAGE)
            reply = connection.recv(1)
        except OSError:
            return Listener.MUTE
    if not reply:
        return Listener.MUTE
    return Listener.SQL_SERVER if reply[0] == _REPLY else Listener.ANOTHER
