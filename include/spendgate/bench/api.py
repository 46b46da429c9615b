"""bench api: a flag's answer and the list of all flags, beside Django REST Framework on the same table.

Both stand under the server that Airflow's API server is made of (uvicorn, one worker process), the peer through the
bridge from WSGI that Flask has; and once more under gunicorn with threads, where it is at home. An answer of the peer
reads one row and checks a JWT by simplejwt, which doesn't ask whether its user still stands.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
from sqlalchemy import insert

from spendgate.api.accounts import Accounts, NewUser
from spendgate.api.mount import MOUNTED_AT
from spendgate.bench.ingest import Figures, Rows
from spendgate.bench.load import Load, measure
from spendgate.clock import utc_now
from spendgate.errors import ConfigurationError, ServiceError
from spendgate.local import services
from spendgate.local.processes import pick_port
from spendgate.settings import ROOT, Settings
from spendgate.show import tell
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import Advertiser, ServingFlag

CONNECTIONS = 32
SECONDS = 5.0
BULK_CONNECTIONS = 4
START_SECONDS = 60.0


def measure_api(settings: Settings, flags: int, seconds: float = SECONDS) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows, over so many flags, each load for so long.

    Raises:
        ConfigurationError: Django REST Framework isn't installed.
        ServiceError: a server didn't start, or answered anything but what it should.
    """
    for module in ("rest_framework_simplejwt", "gunicorn"):
        if find_spec(module) is None:
            raise ConfigurationError(
                "bench api compares with Django REST Framework: run ./spendgate test --help first."
            )
    warehouse = Warehouse(services.warehouse_url(settings))
    schema.migrate(warehouse)
    tell(f"storing {flags:,} flags")
    store_flags(warehouse, flags, utc_now())
    password = secrets.token_urlsafe(16)
    Accounts(warehouse, utc_now).add_user(NewUser("bench", "bench@example.com", "", "", None, True), password)
    warehouse.close()
    environment = {**os.environ, **settings.as_environment(), "PYTHONPATH": str(ROOT / "include")}
    environment["SPENDGATE_API_RATE_LIMIT"] = "100000000/minute"
    with tempfile.TemporaryDirectory(prefix="spendgate-bench-") as folder:
        figures = _ours(environment, password, flags, Path(folder), seconds)
        figures |= _theirs(environment, flags, Path(folder), seconds)
    figures["ratio_to_drf"] = figures["rps"] / max(figures["drf_rps"], figures["drf_gunicorn_rps"])
    return figures, _rows(figures)


def _ours(environment: dict[str, str], password: str, flags: int, folder: Path, seconds: float) -> Figures:
    command = [sys.executable, "-P", "-m", "uvicorn", "spendgate.api.asgi:application", "--no-access-log"]
    with _served(command, environment, folder / "api.log", f"{MOUNTED_AT}/v1/health/live") as (base, process):
        url = base + MOUNTED_AT + "/v1"
        answer = httpx.post(f"{url}/auth/token", json={"username": "bench", "password": password}, trust_env=False)
        headers = {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}
        began = time.perf_counter()
        cold = httpx.get(f"{url}/can-serve", headers=headers, trust_env=False, timeout=120).raise_for_status()
        cold_seconds = time.perf_counter() - began
        known = {**headers, "If-None-Match": cold.headers["ETag"]}
        zipped = {**headers, "Accept-Encoding": "gzip"}
        # What comes before the first figure is paid: threads, prepared statements, memory.
        measure(f"{url}/advertisers/1/can-serve", headers, connections=CONNECTIONS, seconds=min(1.0, seconds))
        before = process.memory_info().rss
        one = _good(
            measure(f"{url}/advertisers/{flags // 2}/can-serve", headers, connections=CONNECTIONS, seconds=seconds)
        )
        full = _good(measure(f"{url}/advertisers/1?fields=name", headers, connections=CONNECTIONS, seconds=seconds))
        warm = _good(measure(f"{url}/can-serve", zipped, connections=BULK_CONNECTIONS, seconds=seconds))
        same = _good(measure(f"{url}/can-serve", known, connections=CONNECTIONS, seconds=seconds), 304)
        grown = process.memory_info().rss - before
    return {
        "rps": one.rate,
        "p50_ms": one.p50 * 1000,
        "p99_ms": one.p99 * 1000,
        "flask_rps": full.rate,
        "flask_p50_ms": full.p50 * 1000,
        "flask_p99_ms": full.p99 * 1000,
        "bulk_flags": float(flags),
        "bulk_cold_s": cold_seconds,
        "bulk_bytes": float(len(cold.content)),
        "bulk_gzip_rps": warm.rate,
        "bulk_gzip_p50_ms": warm.p50 * 1000,
        "bulk_gzip_bytes": float(warm.body_bytes),
        "bulk_304_rps": same.rate,
        "bulk_304_p50_ms": same.p50 * 1000,
        "bulk_304_p99_ms": same.p99 * 1000,
        "memory_grown_mb": grown / 2**20,
    }


def _theirs(environment: dict[str, str], flags: int, folder: Path, seconds: float) -> Figures:
    module = "spendgate.bench.drf_peer"
    given = {**environment, "SPENDGATE_BENCH_KEY": secrets.token_urlsafe(32)}
    token = subprocess.run(
        [sys.executable, "-P", "-m", module], env=given, capture_output=True, text=True, check=True, timeout=60
    )
    headers = {"Authorization": f"Bearer {token.stdout.strip()}"}
    figures: Figures = {}
    uvicorn = [sys.executable, "-P", "-m", "uvicorn", f"{module}:asgi", "--no-access-log", "--lifespan", "off"]
    gunicorn = [sys.executable, "-P", "-m", "gunicorn", f"{module}:wsgi", "--threads", "4", "--no-control-socket"]
    for name, command in (("drf", uvicorn), ("drf_gunicorn", gunicorn)):
        with _served(command, given, folder / f"{name}.log", "/flags/1", headers) as (base, _):
            measure(f"{base}/flags/1", headers, connections=CONNECTIONS, seconds=min(1.0, seconds))
            load = _good(measure(f"{base}/flags/{flags // 2}", headers, connections=CONNECTIONS, seconds=seconds))
        figures |= {f"{name}_rps": load.rate, f"{name}_p50_ms": load.p50 * 1000, f"{name}_p99_ms": load.p99 * 1000}
    return figures


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


@contextmanager
def _served(
    command: list[str], environment: dict[str, str], log: Path, path: str, headers: dict[str, str] | None = None
) -> Iterator[tuple[str, psutil.Process]]:
    """A server of one worker on a free port, until the block ends."""
    port = pick_port("a port", 0)
    listen = ["--bind", f"127.0.0.1:{port}"] if "gunicorn" in command else ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *listen], env=environment, stdout=output, stderr=output)
        try:
            _wait(process, f"http://127.0.0.1:{port}{path}", headers or {}, log)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _wait(process: subprocess.Popen[bytes], url: str, headers: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, headers=headers, trust_env=False, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise ServiceError(f"A server of the benchmark didn't start: {log.read_text(errors='replace')[-500:]}")


def _good(load: Load, status: int = 200) -> Load:
    if load.statuses != {status}:
        raise ServiceError(f"A server of the benchmark answered {sorted(load.statuses)}, not {status}: try again.")
    return load


def _rows(figures: Figures) -> Rows:
    def row(what: str, name: str, against: str = "") -> list[object]:
        return [what, f"{figures[name + 'p50_ms'] / 1000:.4f}", f"{figures[name + 'rps']:,.0f}/s", against]

    return [
        row("one flag, JWT checked", "", f"{figures['ratio_to_drf']:.1f} x the better Django"),
        row("one advertiser, through Flask", "flask_"),
        row("Django REST Framework, uvicorn", "drf_"),
        row("Django REST Framework, gunicorn", "drf_gunicorn_"),
        ["all flags, cold", f"{figures['bulk_cold_s']:.2f}", f"{figures['bulk_flags']:,.0f} flags", ""],
        row("all flags, gzipped", "bulk_gzip_", f"{figures['bulk_gzip_bytes'] / 2**20:.1f} MB"),
        row("all flags, 304", "bulk_304_", f"{figures['bulk_304_rps'] / figures['rps']:.1f} x one flag"),
        ["memory grown", "", f"{figures['memory_grown_mb']:.1f} MB", ""],
    ]
