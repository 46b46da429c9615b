"""The servers that bench api measures, each with one worker process on a free port of this machine.

Ours stands in Airflow's API server, with the plugin, and alone; the peer, Django REST Framework, under the server that
Airflow's is made of (uvicorn), through the bridge from WSGI that our Flask has, and under gunicorn with threads, where
it is at home.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import jwt
import psutil

from spendgate.api.mount import MOUNTED_AT
from spendgate.errors import ServiceError
from spendgate.local import airflow
from spendgate.local.processes import LOCALHOST, pick_port
from spendgate.settings import ROOT, Settings

# Airflow's imports, on a core that others need too.
START_SECONDS = 120.0
BENCH_USER = "bench"
_PEER = "spendgate.bench.drf_peer"
_UVICORN = (sys.executable, "-P", "-m", "uvicorn", "--no-access-log")


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers; `headers` let its requests in."""

    base: str
    process: psutil.Process
    headers: Mapping[str, str] = field(repr=False)

    @property
    def memory(self) -> int:
        """Resident bytes of the process that answers."""
        return int(self.process.memory_info().rss)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables of a process that runs our code by these settings."""
    return {**os.environ, **settings.as_environment(), "PYTHONPATH": str(ROOT / "include")}


@contextmanager
def serve_ours(settings: Settings, password: str, folder: Path, *, mounted: bool) -> Iterator[Served]:
    """Our API, in Airflow's server or alone, and a log-in of the user of the benchmark.

    Raises:
        ServiceError: it didn't start.
    """
    command: tuple[str, ...] = (*_UVICORN, "spendgate.api.asgi:application")
    environment = environment_of(settings)
    if mounted:
        airflow.migrate_metadata(settings)
        command, environment = (*airflow.AIRFLOW, "api-server"), airflow.environment(settings)
    environment["SPENDGATE_API_RATE_LIMIT"] = "100000000/minute"
    log = folder / f"{'mounted' if mounted else 'alone'}.log"
    with _served(command, environment, log, f"{MOUNTED_AT}/v1/health/live") as (base, process):
        url = f"{base}{MOUNTED_AT}/v1"
        told = {"username": BENCH_USER, "password": password}
        answer = httpx.post(f"{url}/auth/token", json=told, trust_env=False, timeout=20).raise_for_status()
        yield Served(url, process, {"Authorization": f"Bearer {answer.json()['access_token']}"})


@contextmanager
def serve_peer(settings: Settings, folder: Path, *, gunicorn: bool) -> Iterator[Served]:
    """Django REST Framework on the same table.

    Raises:
        ServiceError: it didn't start.
    """
    environment = environment_of(settings)
    key = environment["SPENDGATE_BENCH_KEY"] = secrets.token_urlsafe(32)
    # As simplejwt makes them.
    claims = {
        "token_type": "access",
        "exp": time.time() + 3600,
        "iat": time.time(),
        "jti": uuid.uuid4().hex,
        "sub": "1",
    }
    headers = {"Authorization": f"Bearer {jwt.encode(claims, key, 'HS256')}"}
    command: tuple[str, ...] = (*_UVICORN, f"{_PEER}:asgi", "--lifespan", "off")
    if gunicorn:
        command = (sys.executable, "-P", "-m", "gunicorn", f"{_PEER}:wsgi", "--threads", "4", "--no-control-socket")
    log = folder / f"drf{'-gunicorn' if gunicorn else ''}.log"
    with _served(command, environment, log, "/flags/1", headers) as (base, process):
        yield Served(base, process, headers)


@contextmanager
def _served(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    log: Path,
    path: str,
    headers: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, psutil.Process]]:
    port = pick_port("a port", 0)
    listen = ("--bind", f"{LOCALHOST}:{port}") if "gunicorn" in command else ("--host", LOCALHOST, "--port", str(port))
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *listen], env=dict(environment), stdout=output, stderr=output)
        try:
            _wait(process, f"http://{LOCALHOST}:{port}{path}", headers or {}, log)
            yield f"http://{LOCALHOST}:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)


def _wait(process: subprocess.Popen[bytes], url: str, headers: Mapping[str, str], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            answer = httpx.get(url, headers=headers, trust_env=False, timeout=5)
            # Airflow's UI answers what nobody else does, with 200 too.
            if answer.status_code == 200 and answer.headers.get("content-type") == "application/json":
                return
        time.sleep(0.1)
    raise ServiceError(f"A server of the benchmark didn't start: {log.read_text(errors='replace')[-500:]}")
