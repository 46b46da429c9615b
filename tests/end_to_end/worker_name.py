"""Host names for workers that share a host: Airflow's `[core] hostname_callable` in tests/production.py."""

from __future__ import annotations

import os


def worker_name() -> str:
    """What the process was told that its host is called."""
    return os.environ["TEST_HOST_NAME"]
