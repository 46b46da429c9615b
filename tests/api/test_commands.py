"""Users and keys on the command line, and the benchmark of the API in small."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import URL

from spendgate.api.app import create_app
from spendgate.bench.api import measure_api
from spendgate.settings import Settings
from spendgate.warehouse.engine import Warehouse
from tests.api.callers import PASSWORD
from tests.command_line import CommandLine, Done


@pytest.fixture
def command(warehouse: Warehouse, tmp_path: Path) -> Callable[..., Done]:
    url = warehouse.engine.url.render_as_string(hide_password=False)
    return CommandLine(tmp_path, {"SPENDGATE_WAREHOUSE_URL": url})


def test_people_and_programs_are_let_in_and_out_by_the_command_line(
    command: Callable[..., Done], warehouse: Warehouse
) -> None:
    typed = f"{PASSWORD}\n".encode()
    added = command("users", "add", "Maria", "--email", "maria@example.com", "--staff", stdin=typed)
    assert (added.returncode, added.stdout) == (0, "User 1 is added: maria.\n")
    key = command("keys", "add", "ad server", "--staff", "--scope", "flags", "--days", "30").stdout.strip()
    client = create_app(Settings(api_signing_key=SecretStr("x" * 40)), warehouse=warehouse).test_client()
    assert client.get("/v1/can-serve", headers={"X-API-Key": key}).status_code == 200
    log_in = {"username": "maria", "password": PASSWORD}
    assert client.post("/v1/auth/token", json=log_in).status_code == 200
    listed = command("users", "list").stdout + command("keys", "list").stdout
    assert "maria@example.com" in listed
    assert key[:11] in listed
    assert key not in listed
    assert "argon2" not in listed
    assert command("users", "disable", "maria").returncode == 0
    assert client.post("/v1/auth/token", json=log_in).status_code == 401
    assert command("users", "set-password", "maria", stdin=typed).returncode == 0
    assert client.post("/v1/auth/token", json=log_in).status_code == 200
    assert command("keys", "revoke", key[:11]).returncode == 0
    assert client.get("/v1/can-serve", headers={"X-API-Key": key}).status_code == 401
    refused = command("keys", "add", "x", "--staff", "--scope", "everything")
    assert (refused.returncode, refused.stderr) == (
        1,
        "--scope is one of flags, budgets, spend, catalog, not everything.\n",
    )


def test_the_api_does_not_start_without_a_signing_key(command: Callable[..., Done]) -> None:
    refused = command("api")
    assert refused.returncode == 1
    assert re.fullmatch(r"Set SPENDGATE_API_SIGNING_KEY to [^\n]*\n", refused.stderr)


def test_the_benchmark_compares_with_django_on_the_same_table(make_database: Callable[[], URL], tmp_path: Path) -> None:
    """Of the app alone: Airflow's server takes half a minute to start."""
    url = make_database().render_as_string(hide_password=False)
    settings = Settings(home=tmp_path, warehouse_url=SecretStr(url), api_signing_key=SecretStr("x" * 40))
    figures, rows = measure_api(settings, 50, mounted=False, turns=1, seconds=0.1)
    assert figures["ratio_to_drf"] == figures["rps"] / max(figures["drf_rps"], figures["drf_gunicorn_rps"])
    assert {"rps", "p50_ms", "p99_ms", "bulk_cold_s", "bulk_gzip_rps", "bulk_304_rps"} <= figures.keys()
    assert len(rows) == 9
