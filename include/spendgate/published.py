"""The flag topic against ads.ServingFlag: has everybody who follows the topic what the table says?

Flags and what waits in the outbox are looked at first, the topic is read to its end after that: what was published by
then is on it. A message that is newer than the flag was decided meanwhile, which a second look at the flag tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
from sqlalchemy import Row, func, select

from spendgate.differences import Difference, Kind
from spendgate.errors import StreamUnknownError
from spendgate.streams.base import Stream
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import FlagTopic, Outbox, ServingFlag

CHUNK_MESSAGES = 50_000


class Message(msgspec.Struct, frozen=True):
    """What counts of a message of the flag topic."""

    advertiser_id: int
    version: int
    can_serve: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Published:
    """What the topic lacks or has wrong.

    Attributes:
        differences: one an advertiser; its `repairable` ones are in `above` too.
        above: by advertiser the version on the topic that a message has to be greater than; 0: any is.
    """

    differences: list[Difference]
    above: dict[int, int]


def compare_topic(warehouse: Warehouse, stream: Stream) -> Published:
    """Compare the newest message of each advertiser with its flag.

    Raises:
        TransientError, PermanentError: as the broker and the warehouse say.
    """
    flags, queued, known = _flags(warehouse, stream.name)
    if known is None:
        return Published([], {})
    newest = _newest(stream, known)
    if newest is None:
        expected, found = f"{len(flags)} flags", "another topic"
        detail = (
            f"The topic {stream.name} isn't the one that flags were published to: it was removed or made anew; the "
            "next build publishes all flags again."
        )
        return Published([Difference(Kind.MESSAGE, f"topic {stream.name}", expected, found, detail)], {})
    suspects = {
        advertiser_id: flag
        for advertiser_id, flag in flags.items()
        if queued.get(advertiser_id, 0) < flag.version and not _tells(newest.get(advertiser_id), flag)
    }
    strangers = newest.keys() - flags.keys()
    if not suspects and not strangers:
        return Published([], {})
    # Decided meanwhile, or made meanwhile?
    later, queued, _ = _flags(warehouse, stream.name)
    return _differences(stream.name, {*suspects, *strangers}, later, queued, newest)


def _differences(
    topic: str,
    advertisers: Iterable[int],
    flags: dict[int, Row[Any]],
    queued: dict[int, int],
    newest: dict[int, Message],
) -> Published:
    found = Published([], {})
    for advertiser_id in sorted(advertisers):
        flag, message = flags.get(advertiser_id), newest.get(advertiser_id)
        if flag is not None and (queued.get(advertiser_id, 0) >= flag.version or _tells(message, flag)):
            continue
        expected = "no message" if flag is None else _text(flag.version, bool(flag.can_serve), flag.reason)
        there = "no message" if message is None else _text(message.version, message.can_serve, message.reason)
        subject = f"message of advertiser {advertiser_id} on {topic}"
        detail = f"The newest {subject} should be {expected}, and is {there}."
        if flag is None:
            detail += " The flag's row is gone from ads.ServingFlag: the next build decides it anew."
        elif message is not None and message.version >= flag.version:
            found.above[advertiser_id] = message.version
        else:
            found.above[advertiser_id] = 0
        found.differences.append(
            Difference(
                Kind.MESSAGE,
                subject,
                expected,
                there,
                detail,
                touches=((advertiser_id, date.min),),
                repairable=flag is not None,
            )
        )
    return found


def _tells(message: Message | None, flag: Row[Any]) -> bool:
    return message is not None and (message.version, message.can_serve, message.reason) == (
        flag.version,
        bool(flag.can_serve),
        flag.reason,
    )


def _text(version: int, can_serve: bool, reason: str) -> str:
    return f"version {version}, can_serve {int(can_serve)}, reason {reason}"


def _flags(warehouse: Warehouse, topic: str) -> tuple[dict[int, Row[Any]], dict[int, int], str | None]:
    """Flags by advertiser; the newest version that waits to be published; which topic they went to last."""
    columns = ServingFlag.c
    asked = select(columns.advertiser_id, columns.version, columns.can_serve, columns.reason)
    waiting = select(Outbox.c.advertiser_id, func.max(Outbox.c.version)).where(Outbox.c.published_at.is_(None))
    with warehouse.transaction(read_only=True) as transaction:
        queued = {row[0]: row[1] for row in transaction.run(waiting.group_by(Outbox.c.advertiser_id))}
        flags = {row.advertiser_id: row for row in transaction.run(asked)}
        known = transaction.run(select(FlagTopic.c.incarnation).where(FlagTopic.c.topic == topic)).scalar_one_or_none()
    return flags, queued, known


def _newest(stream: Stream, incarnation: str) -> dict[int, Message] | None:
    """The message with the greatest version of each advertiser; None: it is another topic than `incarnation`."""
    try:
        partitions = stream.partitions()
    except StreamUnknownError:
        return None
    if {partition.incarnation for partition in partitions} != {incarnation}:
        return None
    newest: dict[int, Message] = {}
    for partition in partitions:
        with stream.read(partition, None) as read:
            for batch in read.batches(CHUNK_MESSAGES):
                for value in batch.values:
                    # A record without a value is a tombstone of somebody's: it tells no version.
                    if value is not None and (message := _decode(value)) is not None:
                        known = newest.get(message.advertiser_id)
                        if known is None or known.version <= message.version:
                            newest[message.advertiser_id] = message
    return newest


def _decode(value: bytes) -> Message | None:
    """None: it isn't a message of ours."""
    try:
        return msgspec.json.decode(value, type=Message)
    except msgspec.DecodeError:
        return None
