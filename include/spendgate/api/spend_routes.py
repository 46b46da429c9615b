"""Money: budgets, their changes, spend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response
from sqlalchemy import and_, or_, select

from spendgate.api import grains
from spendgate.api.context import caller, here
from spendgate.api.identity import Scope
from spendgate.api.paging import in_range, make_cursor, read_cursor, read_span, read_time_cursor
from spendgate.api.routes import ADVERTISER, Routes, answer, answer_page, invalid, reads
from spendgate.api.schemas import BudgetAt, BudgetEventOut, BudgetOut, Span, SpendOut, SpendSpan, page_of
from spendgate.clock import format_instant
from spendgate.warehouse.tables import BudgetEvent

routes = Routes("spend", __name__, url_prefix="/v1", description="Budgets and spend.")


@reads(routes, f"/advertisers/{ADVERTISER}/budget", BudgetOut, Scope.BUDGETS, BudgetAt)
def get_budget(asked: Mapping[str, Any], advertiser_id: int) -> Response:
    """The daily budget that holds now, or at an instant."""
    caller().require_sight(advertiser_id)
    at = in_range("at", asked.get("at", here().clock()))
    with here().warehouse.reading() as transaction:
        rows = transaction.rows("api/find_budget", advertiser_id=advertiser_id, at=at)
    told: dict[str, Any] = {"advertiser_id": advertiser_id, "at": at}
    told |= dict.fromkeys(("budget", "since", "source", "event_id"))
    if rows:
        row = rows[0]
        told |= {"budget": row.new_budget_value, "since": row.event_time, "source": row.source}
        told["event_id"] = row.event_id
    return answer(BudgetOut, told, asked)


@reads(routes, f"/advertisers/{ADVERTISER}/budget-events", page_of(BudgetEventOut), Scope.BUDGETS, Span)
def list_budget_events(asked: Mapping[str, Any], advertiser_id: int) -> Response:
    """Changes of the daily budget in [from, to), in order."""
    caller().require_sight(advertiser_id)
    limit = asked["limit"]
    start, stop = read_span(asked, here().clock())
    table = BudgetEvent.c
    columns = [table[name] for name in BudgetEventOut().fields]
    which = [table.advertiser_id == advertiser_id, table.event_time >= start, table.event_time < stop]
    if (parts := read_cursor(asked, str, str)) is not None:
        at, last = read_time_cursor(parts[0]), _uuid(parts[1])
        # The engines sort UUIDs differently, each the same way in the order and in the comparison.
        which.append(or_(table.event_time > at, and_(table.event_time == at, table.event_id > last)))
    query = select(*columns).where(*which).order_by(table.event_time, table.event_id).limit(limit + 1)
    with here().warehouse.reading() as transaction:
        rows = transaction.run(query).all()
    more = None
    if len(rows) > limit:
        more = make_cursor(format_instant(rows[limit - 1].event_time), str(rows[limit - 1].event_id))
    return answer_page(BudgetEventOut, [row._mapping for row in rows[:limit]], more, asked)


@reads(routes, f"/advertisers/{ADVERTISER}/spend", page_of(SpendOut), Scope.SPEND, SpendSpan)
def list_spend(asked: Mapping[str, Any], advertiser_id: int) -> Response:
    """Spend by hour, day, ISO week or month: the windows that begin in [from, to), each whole, in order."""
    caller().require_sight(advertiser_id)
    limit, grain = asked["limit"], asked["grain"]
    start, stop = read_span(asked, here().clock())
    if (parts := read_cursor(asked, str)) is not None:
        start = max(start, read_time_cursor(parts[0]))
    bounds = {"start": grains.ceiling(grain, start), "stop": grains.ceiling(grain, stop)}
    with here().warehouse.reading() as transaction:
        rows = transaction.rows(f"api/list_spend_by_{grain}", n=limit + 1, advertiser_id=advertiser_id, **bounds)
    windows = [grains.as_window(grain, row) for row in rows]
    more = make_cursor(format_instant(windows[limit - 1]["window_end"])) if len(windows) > limit else None
    return answer_page(SpendOut, windows[:limit], more, asked)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise invalid("cursor", "This is no next_cursor of ours.") from error
