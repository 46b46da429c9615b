"""bench api: a flag's answer and the list of all flags, beside Django REST Framework on the same table.

All servers stand at the same time, with one worker process each, and are measured in turns: what else goes on on the
machine meets them alike. An answer of the peer reads one row and checks a JWT by simplejwt, which doesn't ask whether
its user still stands.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import httpx
from sqlalchemy import insert

from spendgate.api.accounts import Accounts, NewUser
from spendgate.bench.api_servers import BENCH_USER, Served, serve_ours, serve_peer
from spendgate.bench.ingest import Figures, Rows
from spendgate.bench.load import Load, measure, together
from spendgate.clock import utc_now
from spendgate.errors import ConfigurationError, ServiceError
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Advertiser, ServingFlag

CONNECTIONS, BULK_CONNECTIONS = 32, 4
TURNS, SECONDS = 4, 1.5
# The figures of one flag have no prefix.
_ONE, _FLASK, _GZIP, _SAME = "", "flask_", "bulk_gzip_", "bulk_304_"


def measure_api(
    settings: Settings, flags: int, *, mounted: bool = True, turns: int = TURNS, seconds: float = SECONDS
) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows, over so many flags, each load for so many turns of so many seconds.

    `rps`, `ratio_to_drf` and the rest are of the app in Airflow's API server, `alone_*` of the app alone; not
    `mounted`: all are of the app alone.

    Raises:
        ConfigurationError: Django REST Framework isn't installed.
        ServiceError: a server didn't start, or answered anything but what it should.
    """
    for module in ("rest_framework_simplejwt", "gunicorn"):
        if find_spec(module) is None:
            raise ConfigurationError(
                "bench api compares with Django REST Framework: run ./spendgate test --help first."
            )
    password = fill(settings, flags)
    with tempfile.TemporaryDirectory(prefix="spendgate-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        tell("starting the servers")
        ours = stack.enter_context(serve_ours(settings, password, folder, mounted=mounted))
        alone = stack.enter_context(serve_ours(settings, password, folder, mounted=False)) if mounted else ours
        peers = {
            "drf_": stack.enter_context(serve_peer(settings, folder, gunicorn=False)),
            "drf_gunicorn_": stack.enter_context(serve_peer(settings, folder, gunicorn=True)),
        }
        figures, etag = _read_cold(ours, flags)
        # What comes before the first figure is paid: threads, prepared statements, memory.
        _take_turn(ours, alone, peers, flags, etag, min(1.0, seconds))
        before = ours.memory
        loads: dict[str, list[Load]] = defaultdict(list)
        for turn in range(turns):
            tell(f"measuring: {turn + 1} of {turns}")
            for which, load in _take_turn(ours, alone, peers, flags, etag, seconds).items():
                loads[which].append(load)
        figures["memory_grown_mb"] = (ours.memory - before) / 2**20
    for which, parts in loads.items():
        whole = together(parts)
        figures[f"{which}rps"] = whole.rate
        figures[f"{which}p50_ms"] = whole.percentile(0.5) * 1000
        figures[f"{which}p99_ms"] = whole.percentile(0.99) * 1000
    figures["bulk_gzip_bytes"] = float(loads[_GZIP][0].body_bytes)
    better = max(figures["drf_rps"], figures["drf_gunicorn_rps"])
    figures["ratio_to_drf"] = figures["rps"] / better
    figures["alone_ratio_to_drf"] = figures["alone_rps"] / better
    figures["ratio_304_to_one"] = figures["bulk_304_rps"] / figures["rps"]
    return figures, _rows(figures)


def fill(settings: Settings, flags: int) -> str:
    """A migrated warehouse with so many flags and a user; returns the user's password."""
    warehouse = Warehouse(services.warehouse_url(settings))
    schema.migrate(warehouse)
    tell(f"storing {flags:,} flags")
    store_flags(warehouse, flags, utc_now())
    password = add_user(warehouse)
    warehouse.close()
    return password


def add_user(warehouse: Warehouse) -> str:
    """The user that the servers are asked by; returns its password."""
    password = secrets.token_urlsafe(16)
    Accounts(warehouse, utc_now).add_user(NewUser(BENCH_USER, "bench@example.com", "", "", None, True), password)
    return password


def _read_cold(ours: Served, flags: int) -> tuple[Figures, str]:
    began = time.perf_counter()
    cold = httpx.get(f"{ours.base}/can-serve", headers=ours.headers, trust_env=False, timeout=120).raise_for_status()
    seconds = time.perf_counter() - began
    told = {"bulk_flags": float(flags), "bulk_cold_s": seconds, "bulk_bytes": float(len(cold.content))}
    return told, cold.headers["ETag"]


def _take_turn(
    ours: Served, alone: Served, peers: Mapping[str, Served], flags: int, etag: str, seconds: float
) -> dict[str, Load]:
    """One load after another, by the names of their figures."""

    def load(server: Served, path: str, headers: Mapping[str, str] = {}, connections: int = CONNECTIONS) -> Load:
        told = {**server.headers, **headers}
        return measure(server.base + path, told, connections=connections, seconds=seconds)

    one = f"/advertisers/{flags // 2}/can-serve"
    return {
        _ONE: _good(load(ours, one)),
        _SAME: _good(load(ours, "/can-serve", {"If-None-Match": etag}), 304),
        **{name: _good(load(peer, f"/flags/{flags // 2}")) for name, peer in peers.items()},
        "alone_": _good(load(alone, one)),
        _GZIP: _good(load(ours, "/can-serve", {"Accept-Encoding": "gzip"}, BULK_CONNECTIONS)),
        _FLASK: _good(load(ours, "/advertisers/1?fields=name")),
    }


def store_flags(warehouse: Warehouse, flags: int, now: datetime) -> None:
    """Advertisers 1 to `flags`, each with a flag that was decided now."""
    stamps = {"created_at": now, "updated_at": now}
    told = {"can_serve": 1, "reason": "ok", "budget": "100.0000", "spent_today": "12.5000", "remaining": "87.5000"}
    with warehouse.transaction() as transaction:
        for start in range(1, flags + 1, 10_000):
            numbers = range(start, min(start + 10_000, flags + 1))
            rows = [
                {"advertiser_id": n, "day": now.date(), "as_of": now, "version": 1, **told, **stamps} for n in numbers
            ]
            transaction.run(insert(ServingFlag), rows)
        named = {"name": "One", "industry": None, "country": None, "is_active": 1, "is_inferred": 0, **stamps}
        transaction.run(insert(Advertiser), [{"advertiser_id": 1, **named}])


def _good(load: Load, status: int = 200) -> Load:
    if load.statuses != {status}:
        raise ServiceError(f"A server of the benchmark answered {sorted(load.statuses)}, not {status}: try again.")
    return load


def _rows(figures: Figures) -> Rows:
    def row(what: str, name: str, against: str = "") -> list[object]:
        return [what, f"{figures[name + 'p50_ms'] / 1000:.4f}", f"{figures[name + 'rps']:,.0f}/s", against]

    return [
        row("one flag, JWT checked", _ONE, f"{figures['ratio_to_drf']:.1f} x the better Django"),
        row("the same, the app alone", "alone_", f"{figures['alone_ratio_to_drf']:.1f} x the better Django"),
        row("one advertiser, through Flask", _FLASK),
        row("Django REST Framework, uvicorn", "drf_"),
        row("Django REST Framework, gunicorn", "drf_gunicorn_"),
        ["all flags, cold", f"{figures['bulk_cold_s']:.2f}", f"{figures['bulk_flags']:,.0f} flags", ""],
        row("all flags, gzipped", _GZIP, f"{figures['bulk_gzip_bytes'] / 2**20:.1f} MB"),
        row("all flags, 304", _SAME, f"{figures['ratio_304_to_one']:.2f} x one flag"),
        ["memory grown", "", f"{figures['memory_grown_mb']:.1f} MB", ""],
    ]
