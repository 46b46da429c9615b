"""Messages to columns: a batch of raw messages becomes one Arrow table per entity and a list of rejections.

Clicks are nearly all of the traffic and nearly all spelled the same way (UTC times with Z, plain decimal
amounts), so they are checked and converted by column. A row that isn't spelled that way, and every event of
another type, takes `events.decode_event`: the fast lane decides nothing that the slow one would decide
otherwise, it only recognises rows that are right beyond doubt (tests/test_columns.py holds the two together).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spendgate.clock import floor_hour, to_milliseconds
from spendgate.events import (
    FUTURE_TOLERANCE,
    MAX_ID,
    Ad,
    Advertiser,
    Budget,
    Click,
    Event,
    Rejection,
    decode_event,
)

HOUR_MS = 3_600_000
MONEY = pa.decimal128(19, 4)
INSTANT = pa.timestamp("ms")
UUID_BYTES = pa.binary(16)
FLAG = pa.int16()

_HEAD = [("batch_id", pa.int64()), ("ordinal", pa.int32())]
CLICK_SCHEMA = pa.schema(
    [
        *_HEAD,
        ("click_id", UUID_BYTES),
        ("advertiser_id", pa.int32()),
        ("ad_id", pa.int32()),
        ("click_time", INSTANT),
        ("time_key", INSTANT),
        ("amount", MONEY),
        ("is_valid", FLAG),
        ("updated_at", INSTANT),
    ]
)
BUDGET_SCHEMA = pa.schema(
    [
        *_HEAD,
        ("event_id", UUID_BYTES),
        ("advertiser_id", pa.int32()),
        ("new_budget_value", MONEY),
        ("event_time", INSTANT),
        ("time_key", INSTANT),
        ("source", pa.string()),
        ("updated_at", INSTANT),
    ]
)
ADVERTISER_SCHEMA = pa.schema(
    [
        *_HEAD,
        ("advertiser_id", pa.int32()),
        ("name", pa.string()),
        ("industry", pa.string()),
        ("country", pa.string()),
        ("is_active", FLAG),
        ("updated_at", INSTANT),
    ]
)
AD_SCHEMA = pa.schema(
    [
        *_HEAD,
        ("ad_id", pa.int32()),
        ("advertiser_id", pa.int32()),
        ("ad_title", pa.string()),
        ("ad_format", pa.string()),
        ("product_link", pa.string()),
        ("is_active", FLAG),
        ("updated_at", INSTANT),
    ]
)

_Identifier = Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]


class _ClickWire(msgspec.Struct, gc=False):
    """A click as it stands in the message; texts are looked at by column.

    `event_type` is a field and not the struct's tag: a message may lack its tag and still be taken for a click.
    """

    event_type: Literal["click"]
    click_id: str
    advertiser_id: _Identifier
    ad_id: _Identifier
    click_time: str
    amount: Any
    is_valid: bool | None = True
    updated_at: str | None = None


# A JSON number with a fraction reaches us as its own text: money never is a float.
_CLICK_DECODER = msgspec.json.Decoder(_ClickWire, float_hook=str)

_PLAIN_AMOUNT = r"^[0-9]{1,12}(\.[0-9]{1,4})?$"
_HEX = np.full(256, 255, dtype=np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _HEX[np.frombuffer(_digits, dtype=np.uint8)] = np.arange(16, dtype=np.uint8)
_HEX_PLACES = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])
_DIGIT_PLACES = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]

Bytes2D = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """The rows of one batch by entity (schemas above), and (ordinal, rejection) of every other message."""

    clicks: pa.Table
    budgets: pa.Table
    advertisers: pa.Table
    ads: pa.Table
    rejections: list[tuple[int, Rejection]]

    def numbered(self, batch_id: int) -> DecodedBatch:
        """The same rows as those of batch `batch_id`."""
        return DecodedBatch(
            clicks=_numbered(self.clicks, batch_id),
            budgets=_numbered(self.budgets, batch_id),
            advertisers=_numbered(self.advertisers, batch_id),
            ads=_numbered(self.ads, batch_id),
            rejections=self.rejections,
        )


def _numbered(rows: pa.Table, batch_id: int) -> pa.Table:
    return rows.set_column(0, rows.schema.field(0), pa.array(np.full(rows.num_rows, batch_id, dtype=np.int64)))


def decode_batch(
    values: Sequence[bytes | None],
    enqueued_ms: Sequence[int],
    *,
    batch_id: int,
    lateness: timedelta,
    replayed_at: datetime | None = None,
) -> DecodedBatch:
    """Decode the messages of one batch; `ordinal` is a message's index in `values`.

    Args:
        values: raw messages, None for a record without a value.
        enqueued_ms: when the broker took each, milliseconds since 1970 UTC; same length.
        batch_id: written to every row.
        lateness: how old a click may be when it is enqueued.
        replayed_at: for messages that were rejected before, as in `decode_event`.
    """
    enqueued = np.array(enqueued_ms, dtype=np.int64)
    present = enqueued if replayed_at is None else np.maximum(enqueued, to_milliseconds(replayed_at))
    fast, rest = _decode_clicks(values, enqueued, present, batch_id, lateness)
    events: dict[type[Event], list[tuple[int, Any]]] = {Click: [], Budget: [], Advertiser: [], Ad: []}
    rejections: list[tuple[int, Rejection]] = []
    for ordinal in rest:
        enqueued_at = datetime.fromtimestamp(enqueued_ms[ordinal] / 1000, UTC)
        outcome = decode_event(values[ordinal], enqueued_at, lateness, replayed_at)
        if isinstance(outcome, Rejection):
            rejections.append((ordinal, outcome))
        else:
            events[type(outcome)].append((ordinal, outcome))
    slow = _table(CLICK_SCHEMA, batch_id, events[Click])
    return DecodedBatch(
        clicks=pa.concat_tables([fast, slow]) if slow.num_rows else fast,
        budgets=_table(BUDGET_SCHEMA, batch_id, events[Budget]),
        advertisers=_table(ADVERTISER_SCHEMA, batch_id, events[Advertiser]),
        ads=_table(AD_SCHEMA, batch_id, events[Ad]),
        rejections=rejections,
    )


def _decode_clicks(
    values: Sequence[bytes | None], enqueued: Longs, present: Longs, batch_id: int, lateness: timedelta
) -> tuple[pa.Table, list[int]]:
    """The clicks that are right beyond doubt, and the ordinals of all other messages, ascending.

    What is more than a little after its `present` is in the future.
    """
    wires, ordinals, rest = _read_wires(values)
    if not wires:
        return CLICK_SCHEMA.empty_table(), rest
    click_ids, good = _uuids([wire.click_id for wire in wires])
    times, times_good = _instants([wire.click_time for wire in wires])
    updates, updates_good = _instants(
        [wire.click_time if wire.updated_at is None else wire.updated_at for wire in wires]
    )
    amounts, amounts_good = _amounts([wire.amount for wire in wires])
    index = np.array(ordinals, dtype=np.int32)
    latest = present[index] + FUTURE_TOLERANCE // timedelta(milliseconds=1)
    good &= times_good & updates_good & amounts_good
    good &= (times <= latest) & (updates <= latest)
    good &= enqueued[index] - times <= lateness // timedelta(milliseconds=1)
    table = pa.table(
        [
            pa.array(np.full(len(wires), batch_id, dtype=np.int64)),
            pa.array(index),
            click_ids,
            pa.array([wire.advertiser_id for wire in wires], pa.int32()),
            pa.array([wire.ad_id for wire in wires], pa.int32()),
            pa.array(times).view(INSTANT),
            pa.array(times - times % HOUR_MS).view(INSTANT),
            amounts,
            pa.array(np.array([wire.is_valid is not False for wire in wires], dtype=np.int16)),
            pa.array(updates).view(INSTANT),
        ],
        schema=CLICK_SCHEMA,
    )
    if good.all():
        return table, rest
    return table.filter(pa.array(good)), sorted([*rest, *index[~good].tolist()])


def _read_wires(values: Sequence[bytes | None]) -> tuple[list[_ClickWire], list[int], list[int]]:
    """Decoded wires with their ordinals, and the ordinals of the messages that are none."""
    if not _is_utf8(values):
        values = [value if _is_utf8([value]) else None for value in values]
    decode = _CLICK_DECODER.decode
    wires: list[_ClickWire] = []
    rest: list[int] = []
    for value in values:
        try:
            wires.append(decode(value))  # type: ignore[arg-type]  # None is a TypeError, and no click
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            rest.append(len(wires) + len(rest))
    if not rest:
        return wires, list(range(len(wires))), rest
    missing = set(rest)
    return wires, [ordinal for ordinal in range(len(values)) if ordinal not in missing], rest


def _is_utf8(values: Sequence[bytes | None]) -> bool:
    # The decoder skips fields it doesn't know without looking at their bytes; one pass over the joined
    # batch costs next to nothing, and a new line can't complete a torn character.
    try:
        b"\n".join(value for value in values if value is not None).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _matrix(texts: pa.StringArray, width: int) -> tuple[Bytes2D, Mask]:
    """The texts of exactly `width` bytes as rows of bytes, and which texts those are."""
    mask: Mask = np.asarray(pc.equal(pc.binary_length(texts), width))
    if not mask.all():
        texts = texts.filter(pa.array(mask))
    start = texts.offset * width
    content = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)
    return content[start : start + len(texts) * width].reshape(-1, width), mask


def _uuids(texts: list[str]) -> tuple[pa.Array, Mask]:
    matrix, mask = _matrix(pa.array(texts, pa.string()), 36)
    nibbles = _HEX[matrix[:, _HEX_PLACES]]
    good = (nibbles < 16).all(axis=1) & (matrix[:, [8, 13, 18, 23]] == ord("-")).all(axis=1)
    packed = np.zeros((len(texts), 16), dtype=np.uint8)
    packed[mask] = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
    mask[mask] = good
    return pa.FixedSizeBinaryArray.from_buffers(UUID_BYTES, len(texts), [None, pa.py_buffer(packed)]), mask


def _instants(texts: list[str]) -> tuple[Longs, Mask]:
    """Milliseconds since 1970 of times spelled `2026-11-21T10:00:00Z` or `...:00.123Z`."""
    array = pa.array(texts, pa.string())
    result = np.zeros(len(texts), dtype=np.int64)
    good = np.zeros(len(texts), dtype=np.bool_)
    for width in (24, 20):
        matrix, mask = _matrix(array, width)
        if len(matrix):
            result[mask], good[mask] = _parse_instants(matrix)
        if len(matrix) == len(texts):
            break
    return result, good


def _parse_instants(matrix: Bytes2D) -> tuple[Longs, Mask]:
    width = matrix.shape[1]
    places = _DIGIT_PLACES + ([20, 21, 22] if width == 24 else [])
    digits = (matrix[:, places] - ord("0")).astype(np.int64)
    good = (digits <= 9).all(axis=1)
    for place, char in ((4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":"), (width - 1, "Z")):
        good &= matrix[:, place] == ord(char)
    if width == 24:
        good &= matrix[:, 19] == ord(".")
    year = digits[:, 0] * 1000 + digits[:, 1] * 100 + digits[:, 2] * 10 + digits[:, 3]
    month, day, hour, minute, second = (digits[:, i] * 10 + digits[:, i + 1] for i in range(4, 14, 2))
    good &= (year >= 1) & (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    months = (np.where(good, year, 1970) - 1970) * 12 + np.where(good, month, 1) - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    good &= days.astype("datetime64[M]").astype(np.int64) == months
    milli = digits[:, 14] * 100 + digits[:, 15] * 10 + digits[:, 16] if width == 24 else 0
    return ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + milli, good


def _amounts(values: list[Any]) -> tuple[pa.Array, Mask]:
    """Amounts spelled as at most 12 digits, a point and at most 4; others are 0 and not good."""
    texts = pa.array([value if type(value) is str else _amount_text(value) for value in values], pa.string())
    plain = pc.match_substring_regex(texts, _PLAIN_AMOUNT)
    if not pc.all(plain).as_py():
        texts = pc.if_else(plain, texts, "0")
    return pc.cast(texts, MONEY), np.asarray(plain)


def _amount_text(value: object) -> str:
    return str(value) if type(value) is int else ""


def _plain(value: object) -> object:
    """A field as Arrow takes it: ids as 16 bytes, times as naive UTC."""
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def _table(schema: pa.Schema, batch_id: int, rows: list[tuple[int, Any]]) -> pa.Table:
    if not rows:
        return schema.empty_table()
    columns: list[pa.Array] = []
    for field in schema:
        read = _reader(field, batch_id)
        columns.append(pa.array([read(ordinal, event) for ordinal, event in rows], field.type))
    return pa.table(columns, schema=schema)


def _reader(field: pa.Field, batch_id: int) -> Callable[[int, Any], object]:
    name = field.name
    if name == "batch_id":
        return lambda _ordinal, _event: batch_id
    if name == "ordinal":
        return lambda ordinal, _event: ordinal
    if name == "time_key":
        return lambda _ordinal, event: _plain(
            floor_hour(event.click_time if isinstance(event, Click) else event.event_time)
        )
    if field.type == UUID_BYTES:
        return lambda _ordinal, event: UUID(getattr(event, name)).bytes
    if field.type == FLAG:
        return lambda _ordinal, event: int(getattr(event, name))
    return lambda _ordinal, event: _plain(getattr(event, name))
