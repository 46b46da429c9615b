"""`./spendgate rejected`: what was rejected, why, and trying it again."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select

from spendgate.clock import utc_now
from spendgate.errors import ConfigurationError
from spendgate.replay import RejectedFilter, Replay, ReplayCounts
from spendgate.settings import Settings
from spendgate.show import counted, progress, say, show_rows
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.schema import require_current
from spendgate.warehouse.tables import Blob, RejectedEvent

PREVIEW_LENGTH = 60
_PREVIEWED = (
    RejectedEvent.c.id,
    RejectedEvent.c.stream,
    RejectedEvent.c.partition_id.label("partition"),
    RejectedEvent.c.position,
    RejectedEvent.c.enqueued_at,
    RejectedEvent.c.reason,
    RejectedEvent.c.detail,
    func.substring(RejectedEvent.c.raw, 1, PREVIEW_LENGTH + 1, type_=Blob).label("raw"),
)


@dataclass(frozen=True, slots=True)
class Rejections:
    """Some rejected events, newest first, and how many there are.

    `columns` name what is in `rows`, `by_reason` counts all that match, `waiting` those of them that are staged
    again and leave, or get a new answer, with the next build.
    """

    columns: list[str]
    rows: list[list[object]]
    by_reason: dict[str, int]
    waiting: int


def rejected_events(warehouse: Warehouse, which: RejectedFilter, limit: int) -> Rejections:
    """The newest `limit` rejected events that match, with a preview of their bytes."""
    row = RejectedEvent.c
    newest = select(*_PREVIEWED).where(*which.conditions()).order_by(row.id.desc()).limit(limit)
    # COUNT leaves NULLs out: rows that don't wait for a build.
    by_reason = select(row.reason, func.count(), func.count(row.replay_batch_id)).where(*which.conditions())
    with warehouse.transaction(read_only=True) as transaction:
        result = transaction.run(newest)
        columns, rows = list(result.keys()), [[*found[:-1], preview(found[-1])] for found in result]
        counts = transaction.run(by_reason.group_by(row.reason).order_by(row.reason)).all()
    return Rejections(columns, rows, {reason: count for reason, count, _ in counts}, sum(found[2] for found in counts))


def rejected_event(warehouse: Warehouse, event_id: int) -> Row[Any]:
    """All columns of one rejected event.

    Raises:
        ConfigurationError: there is none with that id.
    """
    wanted = RejectedFilter(ids=(event_id,))
    with warehouse.transaction(read_only=True) as transaction:
        row: Row[Any] | None = transaction.run(select(RejectedEvent).where(*wanted.conditions())).one_or_none()
    if row is None:
        raise ConfigurationError(f"No rejected event has the id {event_id}; see ./spendgate rejected list.")
    return row


def preview(raw: bytes | None) -> str | None:
    """The beginning of a message on one line, without anything that a terminal would act on."""
    if raw is None:
        return None
    text = bytes(raw[:PREVIEW_LENGTH]).decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown + ("..." if len(raw) > PREVIEW_LENGTH else "")


def spelt(raw: bytes) -> tuple[str, str]:
    """How a message's bytes are written, and they themselves: as text, or where that can't be shown, base64."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "base64, for it isn't UTF-8", base64.b64encode(raw).decode()
    if all(char.isprintable() or char in "\t\r\n" for char in text):
        return "UTF-8 text", text
    return "base64, for it holds control characters", base64.b64encode(raw).decode()


def show_list(warehouse: Warehouse, which: RejectedFilter, limit: int) -> None:
    """Print the newest rejected events that match, then how many there are by reason."""
    found = rejected_events(warehouse, which, limit)
    total = sum(found.by_reason.values())
    if not total:
        say("No rejected event matches.")
        return
    show_rows(found.columns, found.rows)
    shown = f"; the {len(found.rows):,} newest of {total:,} are shown" if len(found.rows) < total else ""
    say(f"Rejected, by reason: {counted(found.by_reason)}{shown}.")
    if found.waiting:
        say(f"{found.waiting:,} of them are staged again: the next build accepts them or says why not.")


def show_event(warehouse: Warehouse, event_id: int) -> None:
    """Print all columns of one rejected event, its bytes last."""
    row = rejected_event(warehouse, event_id)
    show_rows(["column", "value"], [[name, value] for name, value in row._mapping.items() if name != "raw"])
    if row.raw is None:
        say("raw: none, the message had no value")
        return
    raw = bytes(row.raw)
    how, written = spelt(raw)
    say(f"raw, {len(raw):,} bytes ({how}):")
    say(written)


def replay(settings: Settings, warehouse: Warehouse, which: RejectedFilter, *, dry_run: bool) -> ReplayCounts:
    """Replay what matches and say what that did.

    Raises:
        ConfigurationError: nothing matches.
    """
    require_current(warehouse)
    step = Replay(warehouse, utc_now, settings.batch_size, Endpoints(settings).lateness)
    with progress("replaying") as tick:
        counts = step.replay_rejected(which, dry_run=dry_run, progress=tick)
    if not counts.looked_at:
        raise ConfigurationError(
            "No rejected event matches that isn't staged again already; see ./spendgate rejected list."
        )
    say(_sentence(counts))
    return counts


def _sentence(counts: ReplayCounts) -> str:
    looked = f"Looked at {_events(counts.looked_at)}"
    stay = ""
    if counts.rejected:
        each = counted(dict(sorted(counts.rejected.items())))
        stay = f"; {counts.rejected.total():,} {'would stay' if counts.dry_run else 'stay'} rejected: {each}"
    if counts.dry_run:
        return f"{looked}: {counts.accepted:,} would be staged again{stay}. Nothing was written."
    if not counts.accepted:
        return f"{looked}: none is an event now{stay}."
    return (
        f"{looked}: {counts.accepted:,} are staged again{stay}. "
        "The next build (./spendgate run) merges them; they leave the table if they don't clash with what is stored."
    )


def _events(count: int) -> str:
    return "1 rejected event" if count == 1 else f"{count:,} rejected events"
