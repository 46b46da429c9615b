"""Pages: opaque cursors that name the last row, so that rows that come or go in between shift nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from spendgate.api.routes import invalid
from spendgate.clock import parse_instant
from spendgate.errors import ConfigurationError

DEFAULT_SPAN = timedelta(days=7)
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def make_cursor(*parts: str | int) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(asked: Mapping[str, Any], *kinds: type) -> Sequence[Any] | None:
    """The parts of the cursor that was sent; None: the first page.

    Raises:
        ProblemError: 422, it is none of ours.
    """
    cursor = asked.get("cursor")
    if cursor is None:
        return None
    try:
        parts = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise invalid("cursor", "This is no next_cursor of ours.") from error
    fits = isinstance(parts, list) and len(parts) == len(kinds)
    if not fits or any(type(part) is not kind for part, kind in zip(parts, kinds, strict=True)):
        raise invalid("cursor", "This is no next_cursor of ours.")
    return list(parts)


def read_id_cursor(asked: Mapping[str, Any]) -> int:
    """The id after which a page begins; 0: the first page."""
    parts = read_cursor(asked, int)
    if parts is None:
        return 0
    if not 0 <= parts[0] < 2**31:
        raise invalid("cursor", "This is no next_cursor of ours.")
    return int(parts[0])


def read_time_cursor(text: str) -> datetime:
    """A time in a cursor.

    Raises:
        ProblemError: 422, it is none.
    """
    try:
        return in_range("cursor", parse_instant(text))
    except (ConfigurationError, OverflowError) as error:
        raise invalid("cursor", "This is no next_cursor of ours.") from error


def in_range(name: str, instant: datetime) -> datetime:
    """The instant, if the calendar's ends are far.

    Raises:
        ProblemError: 422, they aren't.
    """
    if not _FIRST <= instant < _LAST:
        raise invalid(name, "Between 1900 and 9000, please.")
    return instant


def read_span(asked: Mapping[str, Any], now: datetime) -> tuple[datetime, datetime]:
    """[from, to).

    Raises:
        ProblemError: 422, it ends before it begins.
    """
    stop = in_range("to", asked.get("to", now))
    start = in_range("from", asked.get("from_", stop - DEFAULT_SPAN))
    if start > stop:
        raise invalid("from", "`from` is after `to`.")
    return start, stop
