"""What the API answers: flags, budgets, spend, pages, fields, times."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path

import pytest

from spendgate.api.app import create_app
from spendgate.settings import Settings
from spendgate.warehouse.engine import Warehouse
from tests.api.callers import NOW, Place
from tests.api.conftest import DAY, HOUR


def test_a_flag_says_who_may_serve_with_money_as_text(place: Place) -> None:
    assert place.get("/v1/advertisers/1/can-serve").json == {
        "advertiser_id": 1,
        "can_serve": True,
        "reason": "ok",
        "budget": "10.0000",
        "spent_today": "4.5000",
        "remaining": "5.5000",
        "day": "2026-11-21",
        "as_of": "2026-11-21T18:29:00.000Z",
        "version": 1,
        "stale": False,
        "has_held_events": False,
    }


def test_a_flag_decided_without_events_that_the_gate_holds_says_so(place: Place) -> None:
    assert place.get("/v1/advertisers/2/can-serve").json["has_held_events"] is True
    assert [flag["has_held_events"] for flag in place.get("/v1/can-serve").json["flags"]] == [False, True, False]


def test_unknown_means_no(place: Place) -> None:
    told = place.get("/v1/advertisers/999/can-serve").json
    assert (told["can_serve"], told["reason"], told["version"]) == (False, "unknown", 0)


def test_stale_means_no_whatever_the_flag_says(place: Place) -> None:
    told = place.get("/v1/advertisers/3/can-serve").json
    assert (told["can_serve"], told["reason"], told["stale"]) == (False, "stale", True)
    place.clock.now = NOW + 3 * HOUR
    assert place.get("/v1/advertisers/1/can-serve").json["stale"] is True
    assert place.get("/v1/ads?servable=true").json["items"] == []


def test_the_list_of_all_flags_is_zipped_tagged_and_not_sent_twice(place: Place) -> None:
    plain = place.get("/v1/can-serve")
    zipped = place.get("/v1/can-serve", **{"Accept-Encoding": "gzip"})
    assert gzip.decompress(zipped.data) == plain.data
    assert [flag["can_serve"] for flag in plain.json["flags"]] == [True, False, False]
    known = place.get("/v1/can-serve", **{"If-None-Match": plain.headers["ETag"]})
    assert (known.status_code, known.data) == (304, b"")
    place.clock.now = NOW + 3 * HOUR
    later = place.get("/v1/can-serve", **{"If-None-Match": plain.headers["ETag"]})
    assert (later.status_code, [flag["can_serve"] for flag in later.json["flags"]]) == (200, [False, False, False])


def test_of_a_list_of_flags_only_what_is_asked_for_is_answered(place: Place) -> None:
    narrow = place.get("/v1/can-serve?fields=can_serve,advertiser_id", **{"Accept-Encoding": "gzip"})
    told = json.loads(gzip.decompress(narrow.data))
    assert told["flags"][0] == {"can_serve": True, "advertiser_id": 1}
    assert told.keys() == {"version", "complete", "flags"}
    assert narrow.headers["ETag"] != place.get("/v1/can-serve").headers["ETag"]
    known = place.get("/v1/can-serve?fields=can_serve,advertiser_id", **{"If-None-Match": narrow.headers["ETag"]})
    assert known.status_code == 304
    changed = place.get(f"/v1/can-serve?fields=version&changed_since={told['version'] - 1}").json
    assert changed["flags"] == [{"version": 1}]
    mine = place.get("/v1/can-serve?fields=reason", place.own_key).json
    assert mine["flags"] == [{"reason": "ok"}]


def test_changes_are_told_since_a_version_and_since_a_time(place: Place) -> None:
    version = place.get("/v1/can-serve").json["version"]
    told = place.get(f"/v1/can-serve?changed_since={version - 1}").json
    assert ([flag["advertiser_id"] for flag in told["flags"]], told["complete"]) == ([3], False)
    assert place.get(f"/v1/can-serve?changed_since={version}").json["flags"] == []
    for unknown in (version + 1, 0):
        assert place.get(f"/v1/can-serve?changed_since={unknown}").json["complete"] is (unknown > version)
    assert len(place.get("/v1/can-serve?changed_since=2026-11-21T18:29:00Z").json["flags"]) == 3
    assert place.get("/v1/can-serve?changed_since=2026-11-21T18:29:01Z").json["flags"] == []
    assert place.get("/v1/can-serve?changed_since=yesterday").status_code == 422


def test_an_advertisers_caller_sees_only_its_own(place: Place) -> None:
    assert [flag["advertiser_id"] for flag in place.get("/v1/can-serve", place.own_key).json["flags"]] == [1]
    assert [row["advertiser_id"] for row in place.get("/v1/advertisers", place.own_key).json["items"]] == [1]
    assert [row["advertiser_id"] for row in place.get("/v1/ads", place.own_key).json["items"]] == [1]
    changed = place.get("/v1/can-serve?changed_since=0", place.own_key).json
    assert [flag["advertiser_id"] for flag in changed["flags"]] == [1]
    for path in ("", "/can-serve", "/budget", "/budget-events", "/spend?grain=day", "/ads"):
        assert place.get(f"/v1/advertisers/2{path}", place.own_key).status_code == 404, path


def test_ads_that_may_be_served_are_those_of_open_gates(place: Place) -> None:
    assert [row["ad_id"] for row in place.get("/v1/ads").json["items"]] == [10, 20]
    assert [row["ad_id"] for row in place.get("/v1/ads?servable=true").json["items"]] == [10]
    assert [row["ad_id"] for row in place.get("/v1/advertisers/2/ads").json["items"]] == [20]


def test_a_budget_is_told_now_and_at_any_time(place: Place) -> None:
    assert place.get("/v1/advertisers/1/budget").json["budget"] == "14.0000"
    then = place.get("/v1/advertisers/1/budget?at=2026-11-20T19:00:00%2B00:00").json
    # Of equal times the greatest id holds.
    assert (then["budget"], then["since"]) == ("11.0000", "2026-11-20T18:30:00.000Z")
    before = place.get("/v1/advertisers/1/budget?at=2020-01-01T00:00:00Z").json
    assert (before["budget"], before["since"], before["event_id"]) == (None, None, None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/advertisers?", "advertiser_id"),
        ("/v1/ads?", "ad_id"),
        ("/v1/advertisers/1/budget-events?", "event_id"),
        ("/v1/advertisers/1/spend?grain=hour&", "window_start"),
        ("/v1/advertisers/1/spend?grain=week&from=2026-11-01T00:00:00Z&", "window_start"),
        ("/v1/time-hierarchy?", "time_key"),
    ],
)
def test_pages_put_together_are_the_whole_list(place: Place, path: str, name: str) -> None:
    whole = [row[name] for row in place.get(f"{path}limit=1000").json["items"]]
    pages, cursor = [], ""
    while cursor is not None:
        told = place.get(f"{path}limit=2{cursor and '&cursor=' + cursor}").json
        pages += [row[name] for row in told["items"]]
        cursor = told["next_cursor"]
    assert pages == whole
    assert whole


def test_spend_is_of_whole_windows_that_begin_in_the_span(place: Place) -> None:
    hours = place.get("/v1/advertisers/1/spend?grain=hour&from=2026-11-21T17:30:00Z&to=2026-11-21T18:30:00Z").json
    assert [row["window_start"] for row in hours["items"]] == ["2026-11-21T18:00:00.000Z"]
    assert hours["items"][0]["gross_spend"] == "1.5000"
    week = place.get("/v1/advertisers/1/spend?grain=week&from=2026-11-16T00:00:00Z&to=2026-11-17T00:00:00Z").json
    assert (week["items"][0]["gross_spend"], week["items"][0]["click_count"]) == ("45.0000", 60)
    assert week["items"][0]["window_end"] == "2026-11-23T00:00:00.000Z"
    month = place.get("/v1/advertisers/1/spend?grain=month&from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z").json
    assert (month["items"][0]["window_start"], month["items"][0]["net_spend"]) == (
        "2026-11-01T00:00:00.000Z",
        "30.0000",
    )
    assert month["items"][0]["can_serve"] is None


def test_only_the_fields_that_were_asked_for_come(place: Place) -> None:
    assert place.get("/v1/advertisers/1?fields=name,country").json == {"name": "Advertiser 1", "country": "DE"}
    assert place.get("/v1/advertisers/1/can-serve?fields=can_serve").json == {"can_serve": True}
    refused = place.get("/v1/advertisers/1?fields=name,secret")
    assert (refused.status_code, refused.json["errors"]) == (422, {"query": {"fields": ["There is no field secret."]}})


@pytest.mark.parametrize(
    "query",
    [
        "/v1/advertisers?limit=0",
        "/v1/advertisers?limit=1001",
        "/v1/advertisers?cursor=bm90aGluZw",
        "/v1/advertisers?cursor=%F0%9F%92%A9",
        "/v1/advertisers?limt=5",
        "/v1/advertisers/1/spend",
        "/v1/advertisers/1/spend?grain=year",
        "/v1/advertisers/1/spend?grain=day&from=2026-11-21",
        "/v1/advertisers/1/spend?grain=day&from=2026-11-22T00:00:00Z&to=2026-11-21T00:00:00Z",
        "/v1/advertisers/1/budget?at=0001-01-01T00:00:00%2B14:00",
        "/v1/advertisers/1/budget?at=9999-12-31T23:59:59-14:00",
    ],
)
def test_what_is_asked_wrongly_is_a_problem_that_says_where(place: Place, query: str) -> None:
    refused = place.get(query)
    assert refused.status_code == 422
    assert refused.mimetype == "application/problem+json"
    assert refused.json["type"] == "urn:spendgate:problem:invalid_request"
    assert refused.json["errors"]["query"]


def test_a_path_that_is_none_is_a_problem_too(place: Place) -> None:
    for path in ("/", "/v1/nothing", "/v1/advertisers/0", "/v1/advertisers/2147483648/can-serve", "/v1/advertisers/x"):
        answer = place.get(path)
        assert (answer.status_code, answer.mimetype) == (404, "application/problem+json"), path
    assert place.client.delete("/v1/ads").status_code == 405


def test_every_answer_carries_the_security_headers(place: Place) -> None:
    for path in ("/v1/can-serve", "/nothing", "/v1/docs", "/v1/health/live"):
        told = place.get(path).headers
        assert told["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in told["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in told


def test_other_origins_are_let_in_only_where_they_are_named(place: Place) -> None:
    settings = place.settings.model_copy(update={"api_cors_origins": ("https://ads.example",)})
    client = create_app(settings, warehouse=place.warehouse, clock=place.clock).test_client()
    told = client.options("/v1/ads", headers={"Origin": "https://ads.example"})
    assert (told.status_code, told.headers["Access-Control-Allow-Origin"]) == (204, "https://ads.example")
    other = client.options("/v1/ads", headers={"Origin": "https://evil.example"})
    assert (other.status_code, other.headers.get("Access-Control-Allow-Origin")) == (405, None)


def test_a_body_that_is_too_long_is_refused(place: Place) -> None:
    long = place.client.post("/v1/auth/token", json={"username": "staff", "password": "x" * 20_000})
    assert (long.status_code, long.mimetype) == (413, "application/problem+json")


def test_ready_says_why_it_isnt_and_live_is_alive_all_the_same(place: Place, tmp_path: Path) -> None:
    stale = place.client.get("/v1/health/ready")
    assert (stale.status_code, stale.json["status"]) == (503, "unavailable")
    assert "not decided for more than 3 h" in stale.json["reasons"][0]
    away = Settings(home=tmp_path, api_signing_key="x" * 40)
    client = create_app(away, warehouse=Warehouse("postgresql+psycopg://a:b@127.0.0.1:1/x")).test_client()
    assert client.get("/v1/health/live").status_code == 200
    ready = client.get("/v1/health/ready")
    assert (ready.status_code, ready.json["flags_as_of"]) == (503, None)
    unread = client.get("/v1/can-serve", headers={"X-API-Key": "sg_00000000_x"})
    assert (unread.status_code, unread.headers["Retry-After"]) == (503, "5")
    assert "127.0.0.1" not in unread.text


def test_a_stream_is_asked_for_by_headers_alone_and_asking_for_its_headers_alone_keeps_nothing(place: Place) -> None:
    key = {"X-API-Key": place.staff_key}
    assert place.client.get("/v1/can-serve/stream?t=1", headers=key).status_code == 422
    for _ in range(5):  # one more than there may be
        with place.client.head("/v1/can-serve/stream", headers=key) as answer:
            assert answer.status_code == 200


def test_the_open_stream_tells_all_flags_then_what_changes_and_resumes(place: Place) -> None:
    reads = place.app.extensions["spendgate"].hot
    with place.app.test_request_context(headers={"X-API-Key": place.staff_key}):
        identity = place.app.extensions["spendgate"].guard.check(None, place.staff_key)
        version = place.get("/v1/can-serve").json["version"]
        first = b"".join(reads.open_stream(identity, None).next_events())
        assert first.startswith(f"id: {version}\nevent: flags\n".encode())
        resumed = b"".join(reads.open_stream(identity, str(version - 1)).next_events())
        assert b"event: changes\n" in resumed
        told = json.loads(resumed.split(b"data: ")[1])
        assert [flag["advertiser_id"] for flag in told["flags"]] == [3]
        caught_up = reads.open_stream(identity, str(version))
        assert not caught_up.next_events()
        place.clock.now = NOW + DAY
        assert b"event: flags\n" not in b"".join(caught_up.next_events())  # one was stale before already
        place.clock.now = NOW - DAY + timedelta(hours=1)
        assert b"event: flags\n" in b"".join(caught_up.next_events())
