"""The type system of AMQP 1.0, as far as Event Hubs needs it: values read from bytes and written to them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Buffer = bytes | bytearray

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
HEADER, DELIVERY_ANN, MESSAGE_ANN, PROPERTIES, APP_PROPERTIES, DATA, VALUE = 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x77
ERROR, ACCEPTED, REJECTED = 0x1D, 0x24, 0x25
# The format of a message whose data sections are messages of their own.
BATCH_FORMAT = 0x80013700
SYMBOL = 0xA3

_FIXED = {
    **dict.fromkeys((0x50, 0x52, 0x53), ">B"),
    **dict.fromkeys((0x51, 0x54, 0x55), ">b"),
    0x60: ">H",
    0x61: ">h",
    0x70: ">I",
    0x71: ">i",
    0x72: ">f",
    0x80: ">Q",
    0x81: ">q",
    0x82: ">d",
    0x83: ">q",
}
_BARE = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_WIDTHS = (0, 1, 2, 4, 8, 16)


# -- reading


def skip(buf: Buffer, pos: int) -> int:
    """The position after the value at pos."""
    code = buf[pos]
    if code == 0:  # described: the descriptor, then the value
        return skip(buf, skip(buf, pos + 1))
    kind = code >> 4
    if 0x4 <= kind <= 0x9:
        return pos + 1 + _WIDTHS[kind - 4]
    if kind in (0xA, 0xC, 0xE):
        return pos + 2 + buf[pos + 1]
    if kind in (0xB, 0xD, 0xF):
        end: int = pos + 5 + struct.unpack_from(">I", buf, pos + 1)[0]
        return end
    raise ValueError(f"AMQP constructor 0x{code:02x}")


def decode(buf: Buffer, pos: int = 0) -> Any:
    """The value at pos; of a described value, the value alone; strings and symbols are str, lists are lists."""
    code = buf[pos]
    if code == 0:
        return decode(buf, skip(buf, pos + 1))
    if code in _FIXED:
        return struct.unpack_from(_FIXED[code], buf, pos + 1)[0]
    if code in _BARE:
        return _BARE[code]
    kind = code >> 4
    if code == 0x56:
        return buf[pos + 1] == 1
    if kind in (0xA, 0xB):
        raw = bytes(buf[pos + (2 if kind == 0xA else 5) : skip(buf, pos)])
        return raw if code & 0xF == 0 else raw.decode()
    if code == 0x45 or kind in (0xC, 0xD):
        items = [decode(raw) for raw in fields(buf, pos)]
        return dict(zip(items[::2], items[1::2], strict=True)) if code & 0xF == 1 else items
    if kind in (0xE, 0xF):
        return _decode_array(buf, pos)
    return bytes(buf[pos + 1 : skip(buf, pos)])  # uuid, char, decimals: raw


def _decode_array(buf: Buffer, pos: int) -> list[Any]:
    """One constructor, then the values without it."""
    small = buf[pos] == 0xE0
    count, at = (buf[pos + 2], pos + 3) if small else (struct.unpack_from(">I", buf, pos + 5)[0], pos + 9)
    constructor, at = bytes(buf[at : at + 1]), at + 1
    items = []
    for _ in range(count):
        end = at - 1 + skip(constructor + bytes(buf[at : at + 5]), 0)
        items.append(decode(constructor + bytes(buf[at:end])))
        at = end
    return items


def fields(buf: Buffer, pos: int) -> list[Buffer]:
    """The raw items of the list or map at pos."""
    if buf[pos] == 0x45:
        return []
    count, at = (buf[pos + 2], pos + 3) if buf[pos] < 0xD0 else (struct.unpack_from(">I", buf, pos + 5)[0], pos + 9)
    out = []
    for _ in range(count):
        end = skip(buf, at)
        out.append(buf[at:end])
        at = end
    return out


def pairs(buf: Buffer, pos: int) -> list[tuple[Buffer, Buffer]]:
    """The raw keys and values of the map at pos."""
    raw = fields(buf, pos)
    return list(zip(raw[::2], raw[1::2], strict=True))


def sections(buf: Buffer) -> list[tuple[int, int, int, int]]:
    """[(code, start, start of the value, end)] of an encoded message."""
    out, pos = [], 0
    while pos < len(buf):
        if buf[pos] != 0 or buf[pos + 1] not in (0x53, 0x80):
            raise ValueError("not an AMQP message")
        code, value = (buf[pos + 2], pos + 3) if buf[pos + 1] == 0x53 else (buf[pos + 9], pos + 10)
        end = skip(buf, value)
        out.append((code, pos, value, end))
        pos = end
    return out


# -- writing

NULL, TRUE, FALSE = b"\x40", b"\x41", b"\x42"


def _fixed(code: int, form: str) -> Callable[[int], bytes]:
    packer = struct.Struct(">B" + form)
    return lambda number: packer.pack(code, number)


ubyte, ushort, uint, ulong = _fixed(0x50, "B"), _fixed(0x60, "H"), _fixed(0x70, "I"), _fixed(0x80, "Q")
int32, long, stamp = _fixed(0x71, "i"), _fixed(0x81, "q"), _fixed(0x83, "q")


def boolean(value: object) -> bytes:
    return TRUE if value else FALSE


def _variable(code: int, raw: bytes) -> bytes:
    return bytes([code, len(raw)]) + raw if len(raw) < 256 else struct.pack(">BI", code + 0x10, len(raw)) + raw


def string(text: str) -> bytes:
    return _variable(0xA1, text.encode())


def binary(raw: bytes) -> bytes:
    return _variable(0xA0, raw)


def symbol(text: str) -> bytes:
    return _variable(SYMBOL, text.encode())


def _compound(code: int, values: Sequence[Buffer]) -> bytes:
    raw = b"".join(values)
    return struct.pack(">BII", code, len(raw) + 4, len(values)) + raw


def list_of(*values: Buffer) -> bytes:
    return _compound(0xD0, values)


def map_of(items: Iterable[tuple[Buffer, Buffer]]) -> bytes:
    return _compound(0xD1, [value for item in items for value in item])


def array_of(code: int, texts: Sequence[str]) -> bytes:
    """Strings or symbols, of the four-byte kind."""
    raw = bytes([code + 0x10]) + b"".join(struct.pack(">I", len(text)) + text.encode() for text in texts)
    return struct.pack(">BII", 0xF0, len(raw) + 4, len(texts)) + raw


def described(code: int, value: bytes) -> bytes:
    return b"\x00\x53" + bytes([code]) + value


def error(condition: str, description: str) -> bytes:
    return described(ERROR, list_of(symbol(condition), string(description), NULL))


def frame(channel: int, code: int, *values: Buffer, payload: Buffer = b"", kind: int = 0) -> bytes:
    """One frame. Every field is written, trailing nulls too, as the service does: the client needs them."""
    body = described(code, list_of(*values))
    return struct.pack(">IBBH", 8 + len(body) + len(payload), 2, kind, channel) + body + payload


EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
