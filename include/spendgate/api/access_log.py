"""The access log: one line of JSON a request. The route, never its parameters, headers or bodies."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime

import msgspec

access_log = logging.getLogger("spendgate.api.access")


def log_access(method: str, rule: str, status: int, began: float, who: str, address: str | None) -> None:
    """Log a request that began at `began` (seconds of time.perf_counter) and was answered just now."""
    if access_log.isEnabledFor(logging.INFO):
        told = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": method,
            "route": rule,
            "status": status,
            "ms": round((time.perf_counter() - began) * 1000, 2),
            "who": who,
            "from": address,
        }
        access_log.info("%s", msgspec.json.encode(told).decode())


def write_as_it_is() -> None:
    """Write these lines as they are to where the others go: Airflow's formatting takes as long as an answer.

    Handlers that were set up for this log stay in charge.
    """
    if access_log.handlers:
        return
    streams = (getattr(handler, "stream", None) for handler in logging.getLogger().handlers)
    handler = logging.StreamHandler(next((stream for stream in streams if stream is not None), sys.stderr))
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.addHandler(handler)
    access_log.propagate = False
