"""Who may what on SQL Server: every table is given to somebody on purpose, and the server keeps to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.roles import ACCESS, EMPTIED, PIPELINE_SCHEMAS, READ, Role, grants, script
from spendgate.warehouse.server import ANY_SQL_SERVER, Server
from spendgate.warehouse.tables import METADATA, WORK, AppUser

VIEWS = {f"ads.{view}" for view in schema.VIEWS}
PASSWORD = "Only-4-this-test"

# They make users in the database.
pytestmark = pytest.mark.usefixtures("own_database")


def test_every_table_and_view_is_given_to_somebody_on_purpose() -> None:
    """A new one in `ads` needs its line in ACCESS; what is in the pipeline's schemas is the pipeline's alone."""
    tables = {str(table.fullname) for table in METADATA.tables.values()}
    apart = {name for name in tables if name.partition(".")[0] in PIPELINE_SCHEMAS}
    assert {name for name in ACCESS if name.startswith("ads.")} == (tables - apart) | VIEWS


BOOKS_OF_THE_API = {"ads.ApiKeyUse", "ads.ApiSession", "ads.LogInFailure"}


def test_api_and_analysts_only_read_but_for_the_apis_own_books() -> None:
    for name, roles in ACCESS.items():
        for role in (Role.API, Role.ANALYST):
            given = roles.get(role, READ).partition(" (")[0]
            assert given == READ or (role is Role.API and name in BOOKS_OF_THE_API), f"{role} only reads {name}"
    theirs = [name for name, roles in ACCESS.items() if not name.startswith("ads.") and roles]
    assert theirs == [f"etl.{schema.VERSION_TABLE}", "etl.Outbox"]


def test_only_the_api_reads_password_hashes() -> None:
    given = ACCESS["ads.AppUser"]
    assert given[Role.API] == READ
    assert Role.PIPELINE not in given
    assert "password_hash" not in given[Role.ANALYST]
    assert all(column.name in given[Role.ANALYST] for column in AppUser.columns if column.name != "password_hash")


def test_what_is_emptied_may_be_emptied() -> None:
    for table in (*WORK, *EMPTIED):
        assert f"GRANT ALTER ON {table.fullname} TO spendgate_pipeline" in list(grants())
    assert not [grant for grant in grants(Server("another", 0, 0)) if "ALTER" in grant]


def test_a_dba_gets_the_same_as_one_script() -> None:
    lines = script().splitlines()
    assert [line.rpartition(" ")[2] for line in lines[:3]] == [f"{role};" for role in Role]
    assert lines[3:] == [f"{grant};" for grant in grants(ANY_SQL_SERVER)]


ON_SQL_SERVER = pytest.mark.parametrize(
    "server_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True, scope="session"
)


@pytest.fixture
def as_member(warehouse: Warehouse) -> Iterator[Callable[[Role], Warehouse]]:
    """Makes a login that is a member of a role and nothing else, and the warehouse as it sees it."""
    made: list[tuple[str, Warehouse]] = []
    admin = create_engine(warehouse.engine.url.set(database="master"), isolation_level="AUTOCOMMIT")

    def make(role: Role) -> Warehouse:
        name = f"spendgate_test_{uuid.uuid4().hex[:8]}"
        with admin.connect() as connection:
            connection.execute(text(f"CREATE LOGIN {name} WITH PASSWORD = '{PASSWORD}'"))
        with warehouse.transaction() as transaction:
            transaction.connection.execute(text(f"CREATE USER {name} FOR LOGIN {name}"))
            transaction.connection.execute(text(f"ALTER ROLE {role} ADD MEMBER {name}"))
        made.append((name, Warehouse(warehouse.engine.url.set(username=name, password=PASSWORD))))
        return made[-1][1]

    yield make
    for name, theirs in made:
        theirs.close()
        with warehouse.transaction() as transaction:
            transaction.connection.execute(text(f"DROP USER {name}"))
        with admin.connect() as connection:
            connection.execute(text(f"DROP LOGIN {name}"))
    admin.dispose()


@contextmanager
def connected(warehouse: Warehouse) -> Iterator[Connection]:
    with warehouse.engine.connect() as connection:
        yield connection
        connection.rollback()


def may(theirs: Warehouse, statement: str) -> bool:
    with connected(theirs) as connection:
        try:
            connection.execute(text(statement))
        except DBAPIError:
            return False
        return True


@ON_SQL_SERVER
def test_an_analyst_reads_ads_without_secrets_and_nothing_else(
    warehouse: Warehouse, as_member: Callable[[Role], Warehouse]
) -> None:
    analyst = as_member(Role.ANALYST)
    readable = {str(table.fullname) for table in METADATA.tables.values() if table.schema == "ads"} | VIEWS
    for name in readable - {"ads.AppUser", "ads.ApiKey", "ads.ApiSession", "ads.LogInFailure"}:
        assert may(analyst, f"SELECT * FROM {name}"), name
    assert not may(analyst, "SELECT key_hash FROM ads.ApiKey")
    assert not may(analyst, "SELECT * FROM ads.ApiSession")
    assert may(analyst, "SELECT username, advertiser_id FROM ads.AppUser")
    assert not may(analyst, "SELECT password_hash FROM ads.AppUser")
    assert not may(analyst, "SELECT * FROM staging.RejectedEvent")
    assert not may(analyst, "SELECT * FROM etl.Batch")
    assert not may(analyst, "UPDATE ads.Ad SET is_active = 0")


@ON_SQL_SERVER
def test_the_api_reads_what_it_answers_with_and_nothing_else(
    warehouse: Warehouse, as_member: Callable[[Role], Warehouse]
) -> None:
    api = as_member(Role.API)
    schema.require_current(api)
    assert may(api, "SELECT password_hash FROM ads.AppUser")
    assert may(api, "SELECT * FROM ads.CurrentServing")
    assert not may(api, "SELECT * FROM ads.ClickEvent")
    assert may(api, "SELECT * FROM etl.Outbox")
    assert may(api, "UPDATE ads.ApiKeyUse SET last_used_at = last_used_at")
    assert not may(api, "UPDATE ads.ApiKey SET is_staff = 1")
    assert not may(api, "SELECT * FROM etl.Batch")
    assert not may(api, "SELECT * FROM staging.StagedClick")
    assert not may(api, "UPDATE ads.ServingFlag SET can_serve = 1")


@ON_SQL_SERVER
def test_views_that_are_made_anew_are_granted_anew(
    warehouse: Warehouse, as_member: Callable[[Role], Warehouse]
) -> None:
    analyst = as_member(Role.ANALYST)
    schema.migrate(warehouse)
    assert may(analyst, "SELECT * FROM ads.SpendByDay")


@ON_SQL_SERVER
def test_the_pipeline_works_with_its_own_role(warehouse: Warehouse, as_member: Callable[[Role], Warehouse]) -> None:
    pipeline = as_member(Role.PIPELINE)
    assert may(pipeline, "DELETE FROM ads.SpendSummary")
    assert may(pipeline, "DELETE FROM staging.StagedClick")
    assert may(pipeline, "UPDATE ads.ClickEvent SET is_valid = 0")
    assert may(pipeline, "DELETE FROM ads.ClickEvent"), "history is purged"
    assert not may(pipeline, "DELETE FROM ads.BudgetEvent")
    assert not may(pipeline, "SELECT username FROM ads.AppUser")
    with pipeline.transaction() as transaction:
        assert transaction.next_batch_id() > 0
