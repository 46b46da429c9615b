"""The server's side of AMQP over WebSocket (RFC 6455): the upgrade, and binary frames."""

from __future__ import annotations

import base64
import hashlib
import struct

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA


class WebSocket:
    """What one connection received so far and hasn't handed on."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._open = False

    def received(self, data: bytes) -> tuple[bytes, bytes]:
        """(what the client's frames carry, what to answer)"""
        self._buffer += data
        answer = b""
        if not self._open:
            head, end, _ = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return b"", b""
            del self._buffer[: len(head) + 4]
            answer = _accept(head)
            self._open = True
        payload = b""
        while (found := self._take()) is not None:
            code, body = found
            if code == _PING:
                answer += _frame(_PONG, body)
            elif code == _CLOSE:
                answer += _frame(_CLOSE, body)
            else:
                payload += body
        return payload, answer

    def framed(self, data: bytes) -> bytes:
        return _frame(_BINARY, data)

    def _take(self) -> tuple[int, bytes] | None:
        """One whole frame off the buffer; a client masks its frames."""
        buf = self._buffer
        if len(buf) < 2:
            return None
        length, at = buf[1] & 0x7F, 2
        if length >= 126:
            form = ">H" if length == 126 else ">Q"
            at += struct.calcsize(form)
            if len(buf) < at:
                return None
            length = struct.unpack_from(form, buf, 2)[0]
        if len(buf) < at + 4 + length:
            return None
        mask = bytes(buf[at : at + 4])
        body = bytes(buf[at + 4 : at + 4 + length])
        code = buf[0] & 0xF
        del buf[: at + 4 + length]
        repeated = mask * (length // 4 + 1)
        plain = int.from_bytes(body, "big") ^ int.from_bytes(repeated[:length], "big")
        return code, plain.to_bytes(length, "big")


def _frame(code: int, body: bytes) -> bytes:
    size = len(body)
    if size < 126:
        return bytes([0x80 | code, size]) + body
    if size < 65536:
        return struct.pack(">BBH", 0x80 | code, 126, size) + body
    return struct.pack(">BBQ", 0x80 | code, 127, size) + body


def _accept(head: bytes) -> bytes:
    key = next(
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    # RFC 6455 asks for SHA-1 here; it protects nothing.
    accept = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n"
    )
