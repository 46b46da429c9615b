"""One connection to the server: SASL, sessions, links, and the management and token nodes behind them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import struct
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, quote_plus, unquote, urlparse

from tests.eventhubs.amqp import (
    ACCEPTED,
    APP_PROPERTIES,
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    EMPTY_FRAME,
    END,
    FALSE,
    FLOW,
    NULL,
    OPEN,
    PROPERTIES,
    REJECTED,
    SASL_INIT,
    SASL_MECHANISMS,
    SASL_OUTCOME,
    SYMBOL,
    TRANSFER,
    TRUE,
    VALUE,
    Buffer,
    array_of,
    boolean,
    decode,
    described,
    error,
    fields,
    frame,
    int32,
    list_of,
    map_of,
    sections,
    skip,
    stamp,
    string,
    ubyte,
    uint,
    ulong,
    ushort,
)
from tests.eventhubs.store import Hub, Partition, RefusedError
from tests.eventhubs.websocket import WebSocket

if TYPE_CHECKING:
    from tests.eventhubs.server import EventHubsServer

MAX_FRAME, MAX_MESSAGE, CREDIT, WINDOW = 65536, 1024 * 1024, 1000, 5000
# So many receivers without an epoch may read a partition in one consumer group.
MOST_READERS = 5
_SOURCE = re.compile(r"(?P<hub>.+)/consumergroups/(?P<group>[^/]+)/partitions/(?P<part>[^/]+)$", re.IGNORECASE)
_TARGET = re.compile(r"(?P<hub>.+?)(?:/partitions/(?P<part>[^/]+))?$", re.IGNORECASE)
_NODES = ("$cbs", "$management")


class Link:
    """One link. `node` is "$cbs", "$management", a reader's partition, or a sender's (hub, partition or None)."""

    def __init__(self, session: Session, handle: int, name: str, sends: bool) -> None:
        self.session, self.handle, self.name, self.sends = session, handle, name, sends
        self.node: str | Partition | tuple[Hub, Partition | None] | None = None
        self.epoch: int | None = None
        self.group = ""
        self.metric = False
        self.credit = self.delivered = self.next = 0
        self.partial, self.format, self.delivery = bytearray(), 0, 0

    def deliver(self, payload: bytes) -> None:
        """Send one message, settled."""
        conn, session = self.session.conn, self.session
        room = min(conn.remote_max_frame, MAX_FRAME) - 64
        first = [uint(session.next_out), b"\xa0\x04" + struct.pack(">I", self.delivered), uint(0), TRUE]
        self.delivered, self.credit = self.delivered + 1, self.credit - 1
        more = True
        while more:
            chunk, payload = payload[:room], payload[room:]
            more = bool(payload)
            rest = [boolean(more), NULL, NULL, NULL, NULL, TRUE]
            conn.send(session.channel, TRANSFER, uint(self.handle), *first, *rest, payload=chunk)
            session.next_out, session.window = session.next_out + 1, session.window - 1
            first = [NULL, NULL, NULL, TRUE]

    def pump(self) -> None:
        """Send what the reader has credit for."""
        conn, partition = self.session.conn, cast(Partition, self.node)
        while self.credit > 0 and self.session.window > 0 and not conn.held:
            found = partition.after(self.next)
            if found is None:
                break
            number, header, rest = found
            if number in conn.server.mislaid:
                conn.server.mislaid.remove(number)
                self.next = number + 1
                continue
            self.deliver(header + partition.metric() + rest if self.metric else header + rest)
            self.next = number + 1
            conn.server.count_delivery()

    def detach(self, condition: str, description: str) -> None:
        conn = self.session.conn
        conn.send(self.session.channel, DETACH, uint(self.handle), TRUE, error(condition, description))
        self.forget()

    def forget(self) -> None:
        if isinstance(self.node, Partition) and self in self.node.readers:
            self.node.readers.remove(self)
        self.session.links.pop(self.handle, None)


class Session:
    def __init__(self, conn: Connection, channel: int, window: int) -> None:
        self.conn, self.channel, self.window = conn, channel, window
        self.next_out, self.next_in = 1, 0
        self.links: dict[int, Link] = {}

    def windows(self) -> list[bytes]:
        """The first fields of a flow."""
        return [uint(self.next_in), uint(WINDOW), uint(self.next_out), uint(WINDOW)]


class Connection(asyncio.Protocol):
    """Bytes in, frames out. Held: the client doesn't read, or the server plays dead."""

    def __init__(self, server: EventHubsServer) -> None:
        self.server = server
        self.sessions: dict[int, Session] = {}
        self.rights: set[str] = set()
        self.remote_max_frame = 512
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._web: WebSocket | None = None
        self._full = False

    @property
    def held(self) -> bool:
        return self._full or self.server.frozen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.add(self)
        self.server.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.server.connections.discard(self)
        for session in self.sessions.values():
            for link in list(session.links.values()):
                link.forget()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.pump()

    def pump(self) -> None:
        for session in self.sessions.values():
            for link in list(session.links.values()):
                if isinstance(link.node, Partition):
                    link.pump()

    def forget_readers(self) -> None:
        for session in self.sessions.values():
            for link in session.links.values():
                if isinstance(link.node, Partition):
                    link.node = None

    # -- bytes

    def data_received(self, data: bytes) -> None:
        if self._web is None and not self.sessions and not self._buffer and data.startswith(b"GET "):
            self._web = WebSocket()
        if self._web is not None:
            data, answer = self._web.received(data)
            self._write(answer)
        self._buffer += data
        while not self.server.frozen and self._next_frame():
            pass

    def thaw(self) -> None:
        self.data_received(b"")
        self.pump()

    def _next_frame(self) -> bool:
        """Take one frame or protocol header off the buffer; False if there is none."""
        buf = self._buffer
        if len(buf) < 8:
            return False
        if buf[:4] == b"AMQP":
            self._write(self._framed(bytes(buf[:8])))
            if buf[4] == 3:
                mechanisms = array_of(SYMBOL, ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"])
                self.send(0, SASL_MECHANISMS, mechanisms, kind=1)
            del buf[:8]
            return True
        size = struct.unpack_from(">I", buf)[0]
        if len(buf) < size:
            return False
        taken = bytes(buf[:size])
        del buf[:size]
        at = taken[4] * 4
        if size > at:
            self._received(struct.unpack_from(">H", taken, 6)[0], taken, at)
        return True

    def send(self, channel: int, code: int, *values: Buffer, payload: Buffer = b"", kind: int = 0) -> None:
        self._write(self._framed(frame(channel, code, *values, payload=payload, kind=kind)))

    def _framed(self, data: bytes) -> bytes:
        return data if self._web is None else self._web.framed(data)

    def _write(self, data: bytes) -> None:
        if data and self.transport is not None:
            self.transport.write(data)

    def _beat(self, every: float) -> None:
        if self.transport is not None:
            if not self.server.frozen:
                self._write(self._framed(EMPTY_FRAME))
            asyncio.get_running_loop().call_later(every, self._beat, every)

    # -- frames

    def _received(self, channel: int, taken: bytes, at: int) -> None:
        value = skip(taken, at + 1)
        code, args = decode(taken, at + 1), fields(taken, value)
        args += [NULL] * (14 - len(args))
        if code == SASL_INIT:
            self.send(0, SASL_OUTCOME, ubyte(0), NULL, kind=1)
        elif code == OPEN:
            self._open(args)
        elif code == BEGIN:
            self._begin(channel, args)
        elif code == CLOSE:
            self.send(0, CLOSE, NULL)
            if self.transport is not None:
                self.transport.close()
        elif channel in self.sessions:  # the client detaches links after it has ended their session
            self._in_session(self.sessions[channel], code, args, taken[skip(taken, value) :])

    def _open(self, args: list[Buffer]) -> None:
        self.remote_max_frame = decode(args[2]) or 2**32 - 1
        idle = decode(args[4])
        if idle:
            self._beat(idle / 2000)
        limits = [uint(MAX_FRAME), ushort(4999), uint(self.server.idle_timeout)]
        self.send(0, OPEN, string("eventhubs-test-server"), NULL, *limits, *[NULL] * 5)

    def _begin(self, channel: int, args: list[Buffer]) -> None:
        session = self.sessions[channel] = Session(self, channel, decode(args[2]))
        session.next_in = decode(args[1])
        windows = [uint(session.next_out), uint(WINDOW), uint(WINDOW), uint(255)]
        self.send(channel, BEGIN, ushort(channel), *windows, NULL, NULL, NULL)

    def _in_session(self, session: Session, code: int, args: list[Buffer], payload: bytes) -> None:
        if code == ATTACH:
            self._attach(session, args)
        elif code == FLOW:
            self._flow(session, args)
        elif code == TRANSFER:
            self._transfer(session, args, payload)
        elif code == DETACH:
            link = session.links.get(decode(args[0]))
            if link:
                link.forget()
                self.send(session.channel, DETACH, uint(link.handle), TRUE, NULL)
        elif code == END:
            for link in list(session.links.values()):
                link.forget()
            del self.sessions[session.channel]
            self.send(session.channel, END, NULL)

    # -- links

    def _attach(self, session: Session, args: list[Buffer]) -> None:
        handle, sends = decode(args[1]), decode(args[2])  # the client's role is receiver: this side sends
        link = session.links[handle] = Link(session, handle, decode(args[0]), sends)
        refused: RefusedError | None = None
        try:
            self._connect(link, args)
        except RefusedError as error:
            refused = error
        limits = [uint(0) if sends else NULL, ulong(MAX_MESSAGE)]
        answer = [args[0], args[1], boolean(not sends), *args[3:7], NULL, NULL, *limits, NULL, NULL, NULL]
        self.send(session.channel, ATTACH, *answer)
        if refused:
            link.detach(refused.condition, refused.description)
        elif not sends:
            self._grant(link)

    def _connect(self, link: Link, args: list[Buffer]) -> None:
        """Find the link's node, if it may have it."""
        terminus = args[5 if link.sends else 6]
        raw = fields(terminus, skip(terminus, 1))
        address = decode(raw[0]) or ""
        path = unquote(urlparse(address).path if "://" in address else address).strip("/")
        if path in _NODES:
            link.node = path
            return
        if self.server.refusal is not None:
            raise self.server.refusal
        self._require("Listen" if link.sends else "Send", address)
        if link.sends:
            self._subscribe(link, path, raw, args)
        else:
            match = cast("re.Match[str]", _TARGET.match(path))
            hub = self.server.lookup(match["hub"])
            link.node = (hub, hub.partition(match["part"]) if match["part"] else None)

    def _require(self, right: str, resource: str) -> None:
        if right not in self.rights:
            raise RefusedError(
                "amqp:unauthorized-access",
                f"Unauthorized access. '{right}' claim(s) are required to perform this operation: '{resource}'.",
            )

    def _subscribe(self, link: Link, path: str, source: list[Buffer], args: list[Buffer]) -> None:
        match = _SOURCE.match(path)
        if not match:
            raise RefusedError("amqp:not-found", f"The messaging entity '{path}' could not be found.")
        hub = self.server.lookup(match["hub"])
        partition = hub.partition(match["part"])
        link.group = match["group"].lower()
        if link.group not in hub.groups:
            raise RefusedError("amqp:not-found", f"The messaging entity '{path}' could not be found.")
        filters = decode(source[7]) if len(source) > 7 else None
        asked = partition.find(next(iter(filters.values())) if filters else None)
        link.next = max(asked - self.server.early, 0)
        link.epoch = (decode(args[13]) or {}).get("com.microsoft:epoch")
        link.metric = "com.microsoft:enable-receiver-runtime-metric" in (decode(args[12]) or ())
        self._make_room(link, [reader for reader in partition.readers if reader.group == link.group])
        link.node = partition
        partition.readers.append(link)

    def _make_room(self, link: Link, rivals: list[Link]) -> None:
        top = max((rival.epoch for rival in rivals if rival.epoch is not None), default=None)
        if top is not None and (link.epoch is None or link.epoch < top):
            raise RefusedError("amqp:link:stolen", f"A receiver with a higher epoch '{top}' already exists.")
        if link.epoch is None and len(rivals) >= MOST_READERS:
            raise RefusedError("amqp:resource-limit-exceeded", "Exceeded the maximum number of allowed receivers.")
        for rival in rivals if link.epoch is not None else ():
            rival.detach(
                "amqp:link:stolen",
                f"New receiver with higher epoch of '{link.epoch}' is created hence current receiver with epoch "
                f"'{rival.epoch}' is getting disconnected.",
            )

    def _grant(self, link: Link) -> None:
        link.credit = CREDIT
        rest = [uint(link.handle), uint(link.delivered), uint(CREDIT), NULL, FALSE, FALSE, NULL]
        self.send(link.session.channel, FLOW, *link.session.windows(), *rest)

    def _flow(self, session: Session, args: list[Buffer]) -> None:
        next_in, window, _, _, handle, count, credit, _, drain, _ = (decode(arg) for arg in args[:10])
        session.window = (next_in if next_in is not None else 1) + window - session.next_out
        link = session.links.get(handle)
        if link and link.sends and credit is not None:
            link.credit = (count or 0) + credit - link.delivered
        self.pump()
        if link and drain and link.credit > 0:
            link.delivered, link.credit = link.delivered + link.credit, 0
            rest = [uint(handle), uint(link.delivered), uint(0), NULL, TRUE, FALSE, NULL]
            self.send(session.channel, FLOW, *session.windows(), *rest)

    # -- messages in

    def _transfer(self, session: Session, args: list[Buffer], payload: bytes) -> None:
        link = session.links.get(decode(args[0]))
        session.next_in += 1
        if link is None:  # of a link just refused
            return
        if decode(args[1]) is not None:
            link.delivery, link.format = decode(args[1]), decode(args[3]) or 0
        link.partial += payload
        if decode(args[5]):
            return
        raw, link.partial = bytes(link.partial), bytearray()
        link.delivered, link.credit = link.delivered + 1, link.credit - 1
        outcome = self._take(link, raw)
        if not decode(args[4]) and not self.server.mute_acknowledgements:
            ids = [uint(link.delivery), uint(link.delivery)]
            self.send(session.channel, DISPOSITION, TRUE, *ids, TRUE, outcome, FALSE)
        if link.credit < CREDIT // 2:
            self._grant(link)

    def _take(self, link: Link, raw: bytes) -> bytes:
        if link.node in _NODES:
            self._request(link, raw)
        elif len(raw) > MAX_MESSAGE:
            return described(REJECTED, list_of(error("amqp:link:message-size-exceeded", "The message is too large.")))
        else:
            hub, partition = cast("tuple[Hub, Partition | None]", link.node)
            for reader in list(hub.take(raw, link.format, partition).readers):
                reader.pump()
        return described(ACCEPTED, list_of())

    # -- the token and the management node

    def _request(self, link: Link, raw: bytes) -> None:
        ident: Buffer = NULL
        props: dict[str, Any] = {}
        body = None
        for code, _, value, _ in sections(raw):
            if code == PROPERTIES:
                ident = (fields(raw, value) or [NULL])[0]
            elif code == APP_PROPERTIES:
                props = decode(raw, value)
            elif code == VALUE:
                body = decode(raw, value)
        status, text, answer = self._put_token(props, body) if link.node == "$cbs" else self._read(props)
        links = [each for session in self.sessions.values() for each in session.links.values()]
        out = [each for each in links if each.sends and each.node == link.node]
        if out:
            head = described(PROPERTIES, list_of(*[NULL] * 5, ident))
            codes = [(string("status-code"), int32(status)), (string("status-description"), string(text))]
            out[-1].deliver(head + described(APP_PROPERTIES, map_of(codes)) + described(VALUE, answer))

    def _put_token(self, props: dict[str, Any], body: object) -> tuple[int, str, bytes]:
        if props.get("type") == "jwt":
            rights = self.server.tokens.get(str(body))
            if rights is None:
                return 401, "InvalidToken: The token isn't one of this server's.", NULL
        elif props.get("type") == "servicebus.windows.net:sastoken":
            policy, refusal = self._check_signature(str(body))
            if refusal:
                return 401, refusal, NULL
            rights = self.server.policies[policy]
        else:
            return 401, f"InvalidToken: type {props.get('type')} is not supported.", NULL
        if urlparse(props["name"]).path.strip("/").split("/")[0] not in self.server.hubs:
            return 404, f"The messaging entity '{props['name']}' could not be found.", NULL
        self.rights |= rights
        return 202, "Accepted", NULL

    def _check_signature(self, token: str) -> tuple[str, str]:
        """The policy's name and, if the token isn't good, why."""
        values = parse_qs(token.partition(" ")[2])
        resource, signature, expiry, policy = (values.get(key, [""])[0] for key in ("sr", "sig", "se", "skn"))
        policy = unquote(policy)
        key = self.server.keys.get(policy, "")
        good = [sign(key, resource, expiry), sign(key, unquote(resource), expiry)]
        if not key or signature not in good:
            return policy, "InvalidSignature: The token has an invalid signature."
        if int(expiry) < time.time():
            return policy, f"ExpiredToken: The token is expired. Expiration time: {expiry}"
        return policy, ""

    def _read(self, props: dict[str, Any]) -> tuple[int, str, bytes]:
        self.server.requests += 1
        try:
            self._require("Listen", props["name"])
            hub = self.server.lookup(props["name"])
            if props.get("type") == "com.microsoft:partition":
                info = hub.partition(props["partition"]).info()
            else:
                idents = [partition.id for partition in hub.partitions]
                info = [
                    ("name", string(hub.name)),
                    ("type", string("com.microsoft:eventhub")),
                    ("created_at", stamp(hub.created)),
                    ("partition_count", int32(len(idents))),
                    ("partition_ids", array_of(0xA1, idents)),
                ]
        except RefusedError as refused:
            codes = {"amqp:not-found": 404, "amqp:unauthorized-access": 401}
            return codes.get(refused.condition, 400), refused.description, NULL
        return 200, "OK", map_of([(string(key), value) for key, value in info])


def sign(key: str, resource: str, expiry: str) -> str:
    """The signature of a shared access signature."""
    text = f"{quote_plus(resource)}\n{expiry}".encode()
    return base64.b64encode(hmac.new(key.encode(), text, hashlib.sha256).digest()).decode()
