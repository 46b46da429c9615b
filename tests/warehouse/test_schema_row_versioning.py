"""READ_COMMITTED_SNAPSHOT: on, turned on, or a sentence that says what to run; nobody else's work is ended."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from sqlalchemy import text

from spendgate.warehouse import row_versioning
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.row_versioning import advise_row_versioning, turn_on_row_versioning
from spendgate.warehouse.server import Feature, Server, read_server


def test_postgresql_has_nothing_to_turn_on(warehouse: Warehouse) -> None:
    assert turn_on_row_versioning(warehouse) is None
    assert advise_row_versioning(warehouse) is None


ON_SQL_SERVER = pytest.mark.parametrize(
    "server_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True, scope="session"
)


@ON_SQL_SERVER
def test_it_is_turned_on_or_left_to_who_has_it_always(warehouse: Warehouse) -> None:
    assert turn_on_row_versioning(warehouse) is None
    assert advise_row_versioning(warehouse) is None


@ON_SQL_SERVER
def test_what_cannot_be_turned_on_is_told_within_the_wait(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second session is in the way; a server that doesn't know the switch refuses it as well."""
    monkeypatch.setattr(Server, "has", lambda _self, feature: feature is Feature.ROW_VERSIONING)
    if advise_row_versioning(warehouse) is None:  # on for good, as on Azure SQL: as if it were off
        monkeypatch.setattr(row_versioning, "_IS_ON", text("SELECT 0"))
    with closing(Warehouse(warehouse.engine.url)) as other, other.transaction() as busy:
        read_server(busy.connection)
        began = time.monotonic()
        advice = turn_on_row_versioning(warehouse, wait=2.0)
        assert time.monotonic() - began < 10
        assert advice is not None
        assert f"ALTER DATABASE [{warehouse.engine.url.database}] SET READ_COMMITTED_SNAPSHOT ON" in advice
        assert read_server(busy.connection), "the other session's work goes on"
