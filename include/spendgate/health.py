"""`python -m spendgate.health COMPONENT`: whether a container's Airflow component is well, by exit status.

`airflow jobs check` costs a process that imports Airflow, 5 s of a core, at every look; this costs a tenth.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpx

# Less than the time-outs of docker-compose.yaml's health checks.
_TIMEOUT = 8.0


def _api_server() -> bool:
    return _reported(f"http://127.0.0.1:{os.environ.get('AIRFLOW__API__PORT', '8080')}", "metadatabase")


def _scheduler() -> bool:
    """Its own health server answers 200 while the latest heartbeat is fresh, else 503."""
    port = os.environ.get("AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT", "8974")
    return _get(f"http://127.0.0.1:{port}/health").is_success


def _dag_processor() -> bool:
    return _reported(_api_address(), "dag_processor")


def _triggerer() -> bool:
    return _reported(_api_address(), "triggerer")


def _worker() -> bool:
    """The Celery worker of this host answers through the broker."""
    from celery import Celery

    name = f"celery@{socket.gethostname()}"
    with Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"]) as app:
        return bool(app.control.ping(destination=[name], timeout=_TIMEOUT / 2))


def _api_address() -> str:
    parts = urlsplit(os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"])
    return f"{parts.scheme}://{parts.netloc}"


def _reported(address: str, part: str) -> bool:
    """What the API server, which needs no login for it, says of the latest heartbeat of `part`."""
    health = _get(f"{address}/api/v2/monitor/health").raise_for_status().json()
    return bool(health[part]["status"] == "healthy")


def _get(url: str) -> httpx.Response:
    # Never through a proxy: these are our own containers.
    return httpx.get(url, timeout=_TIMEOUT, trust_env=False)


CHECKS: dict[str, Callable[[], bool]] = {
    "api-server": _api_server,
    "scheduler": _scheduler,
    "dag-processor": _dag_processor,
    "triggerer": _triggerer,
    "worker": _worker,
}


def main(arguments: Sequence[str]) -> int:
    """Check the component that the first argument names; 0: it is well, 1: it isn't, and stderr says why."""
    name = arguments[0]
    try:
        if CHECKS[name]():
            return 0
        reason = "not healthy"
    except Exception as error:  # whatever keeps us from asking, the component isn't known to be well
        reason = f"{type(error).__name__}: {error}"
    sys.stderr.write(f"{name}: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
