"""The newcomer's first command, at a small size: real services, real Airflow, and nothing left behind."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.brokers import free_port

from spendgate.local import services
from spendgate.local.processes import Supervisor
from spendgate.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_demo_once_runs_both_dags_prints_the_flags_and_stops_everything(
    tmp_path: Path, root: Path, lend_metadata: Callable[[Path], Path]
) -> None:
    home = lend_metadata(tmp_path / "a home")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "spendgate", "demo", "--once", "--clicks", "3000"],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(root / "include"),
                "SPENDGATE_HOME": str(home),
                "SPENDGATE_TOPIC_PARTITIONS": "1",
                # Not the port that others try first: two homes that start at once would both find it free.
                "SPENDGATE_UI_PORT": str(free_port()),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Events read: 3," in done.stdout
        assert "Rejected, by reason: conflicting_duplicate" in done.stdout
        assert "All advertisers, by reason: " in done.stdout
        with sqlite3.connect(home / "airflow" / "airflow.db") as metadata:
            runs = metadata.execute("SELECT dag_id, state FROM dag_run").fetchall()
        assert {dag_id for dag_id, _ in runs} == {"ingest_events", "build_spend"}
        assert {state for _, state in runs} == {"success"}
        assert Supervisor(home).processes() == []
    finally:
        services.down(Settings(home=home), lambda _: None)
