"""What there is: advertisers, ads, hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from spendgate.api.context import caller, here
from spendgate.api.identity import Scope
from spendgate.api.paging import make_cursor, read_cursor, read_id_cursor, read_span, read_time_cursor
from spendgate.api.problems import not_found
from spendgate.api.routes import ADVERTISER, Routes, answer, answer_page, reads
from spendgate.api.schemas import AdOut, AdsPage, AdvertiserOut, HourOut, Page, Selection, Span, page_of
from spendgate.clock import HOUR, format_instant
from spendgate.warehouse.engine import as_utc

routes = Routes("catalog", __name__, url_prefix="/v1", description="Advertisers, ads and hours.")


@reads(routes, "/advertisers", page_of(AdvertiserOut), Scope.CATALOG, Page)
def list_advertisers(asked: Mapping[str, Any]) -> Response:
    """The advertisers that the caller may see, by id."""
    limit = asked["limit"]
    after = read_id_cursor(asked)
    with here().warehouse.reading() as transaction:
        rows = transaction.rows("api/list_advertisers", n=limit + 1, after=after, only=caller().only)
    more = make_cursor(rows[limit - 1].advertiser_id) if len(rows) > limit else None
    return answer_page(AdvertiserOut, [row._mapping for row in rows[:limit]], more, asked)


@reads(routes, f"/advertisers/{ADVERTISER}", AdvertiserOut, Scope.CATALOG, Selection)
def get_advertiser(asked: Mapping[str, Any], advertiser_id: int) -> Response:
    """One advertiser."""
    caller().require_sight(advertiser_id)
    with here().warehouse.reading() as transaction:
        rows = transaction.rows("api/list_advertisers", n=1, after=0, only=advertiser_id)
    if not rows:
        raise not_found()
    return answer(AdvertiserOut, rows[0]._mapping, asked)


@reads(routes, f"/advertisers/{ADVERTISER}/ads", page_of(AdOut), Scope.CATALOG, Page)
def list_ads_of_advertiser(asked: Mapping[str, Any], advertiser_id: int) -> Response:
    """An advertiser's ads, by id."""
    caller().require_sight(advertiser_id)
    return _ads(asked, advertiser_id, servable=False)


@reads(routes, "/ads", page_of(AdOut), Scope.CATALOG, AdsPage)
def list_ads(asked: Mapping[str, Any]) -> Response:
    """The ads that the caller may see, by id; on demand only those that may be served now."""
    return _ads(asked, caller().only, servable=asked["servable"])


def _ads(asked: Mapping[str, Any], only: int, *, servable: bool) -> Response:
    limit = asked["limit"]
    parameters: dict[str, Any] = {"n": limit + 1, "after": read_id_cursor(asked), "only": only}
    statement = "api/list_ads"
    if servable:
        statement = "api/list_servable_ads"
        parameters["decided_since"] = here().clock() - here().max_age
    with here().warehouse.reading() as transaction:
        rows = transaction.rows(statement, **parameters)
    more = make_cursor(rows[limit - 1].ad_id) if len(rows) > limit else None
    return answer_page(AdOut, [row._mapping for row in rows[:limit]], more, asked)


@reads(routes, "/time-hierarchy", page_of(HourOut), Scope.CATALOG, Span)
def list_hours(asked: Mapping[str, Any]) -> Response:
    """Hours in [from, to) and what they belong to, in order; only those that some event was in."""
    limit = asked["limit"]
    start, stop = read_span(asked, here().clock())
    if (parts := read_cursor(asked, str)) is not None:
        start = max(start, read_time_cursor(parts[0]))
    with here().warehouse.reading() as transaction:
        rows = transaction.rows("api/list_hours", n=limit + 1, start=start, stop=stop)
    more = make_cursor(format_instant(as_utc(rows[limit - 1].time_key) + HOUR)) if len(rows) > limit else None
    return answer_page(HourOut, [row._mapping for row in rows[:limit]], more, asked)
