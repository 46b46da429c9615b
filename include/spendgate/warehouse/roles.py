"""Who may do what on SQL Server: three database roles and their grants, made and brought up to date by every migrate.

Only grants, never a DENY: a login that is in two roles would lose by a DENY what its other role needs. So whoever
reads ads.AppUser without the password hash is granted the other columns, and a view or table that is new is granted by
the migrate that makes it. What else was granted to the roles, or to others, is left alone.

PostgreSQL has no roles of ours: they would be of the whole server, and the laptop's has one user.

    python -m spendgate.warehouse.roles     prints the statements, for who has them run by a DBA
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum

from sqlalchemy import Connection, text

from spendgate.warehouse.scripts import run_script
from spendgate.warehouse.server import ANY_SQL_SERVER, Feature, Server, read_server
from spendgate.warehouse.tables import WORK, ApiKey, AppUser, BatchNumber, CheckedDay

log = logging.getLogger(__name__)


class Role(StrEnum):
    """The database roles."""

    PIPELINE = "spendgate_pipeline"  # Airflow's tasks and the command line
    API = "spendgate_api"  # the API: reads what it answers with, keeps its log-ins
    ANALYST = "spendgate_analyst"  # people and their tools: read ads


READ = "SELECT"
STORE = "SELECT, INSERT, UPDATE"  # what was stored once stays, in its newest version
WRITE = "SELECT, INSERT, UPDATE, DELETE"

# Schemas that belong to the pipeline alone, with what is in them and will be. Nobody else reads them, but for the
# tables in ACCESS below.
PIPELINE_SCHEMAS = ("staging", "etl")
# Emptied by TRUNCATE, for which SQL Server wants ALTER.
EMPTIED = (*WORK, CheckedDay)

_STORED = {Role.PIPELINE: STORE, Role.API: READ, Role.ANALYST: READ}
_VIEW = {Role.PIPELINE: READ, Role.API: READ, Role.ANALYST: READ}
_NOT_SECRET = ", ".join(column.name for column in AppUser.columns if column.name != "password_hash")

_KEY_NOT_SECRET = ", ".join(column.name for column in ApiKey.columns if column.name != "key_hash")

# Each table and view of `ads`, and what others may see of the pipeline's schemas. A test knows if one is missing.
ACCESS: Mapping[str, Mapping[Role, str]] = {
    "ads.Advertiser": _STORED,
    "ads.Ad": _STORED,
    "ads.AppUser": {Role.API: READ, Role.ANALYST: f"SELECT ({_NOT_SECRET})"},
    "ads.ApiKey": {Role.API: READ, Role.ANALYST: f"SELECT ({_KEY_NOT_SECRET})"},
    # The API's own books: users and keys it only reads, who makes them is an owner of the database.
    "ads.ApiKeyUse": {Role.API: STORE, Role.ANALYST: READ},
    "ads.ApiSession": {Role.API: WRITE},
    "ads.LogInFailure": {Role.API: WRITE},
    "ads.TimeHierarchy": _STORED,
    # Deleted by purge_history alone, where SPENDGATE_CLICKS_KEEP_DAYS says so.
    "ads.ClickEvent": {Role.PIPELINE: WRITE, Role.ANALYST: READ},
    "ads.BudgetEvent": _STORED,
    "ads.SpendSummary": {**_STORED, Role.PIPELINE: WRITE},
    "ads.ServingFlag": _STORED,
    "ads.SpendByDay": _VIEW,
    "ads.SpendByWeek": _VIEW,
    "ads.SpendByMonth": _VIEW,
    "ads.CurrentServing": _VIEW,
    # Whether the schema is the one that it works with: the API isn't ready before.
    "etl.schema_version": {Role.API: READ},
    # Which flags changed, and in which order.
    "etl.Outbox": {Role.API: READ},
}


def grant_roles(connection: Connection) -> None:
    """Make the roles that are missing and grant them what they may.

    Of a login that may not, the log says so, and what a DBA has to run.
    """
    if not _may_grant(connection):
        log.warning(
            "This login may neither make roles nor grant: have a member of db_owner run ./spendgate migrate, or what "
            "python -m spendgate.warehouse.roles prints; until then the roles may not read the views."
        )
        return
    server = read_server(connection)
    run_script(connection, (*_missing_roles(connection), *grants(server)))


def grants(server: Server = ANY_SQL_SERVER) -> Iterator[str]:
    """The GRANT statements, for roles that are there; each may be run again."""
    for schema in PIPELINE_SCHEMAS:
        yield f"GRANT {WRITE} ON SCHEMA::{schema} TO {Role.PIPELINE}"
    # Part of the schema's UPDATE on SQL Server, but not on all who speak like it.
    yield f"GRANT UPDATE ON {BatchNumber.schema}.{BatchNumber.name} TO {Role.PIPELINE}"
    if server.has(Feature.GRANT_ALTER):
        for table in EMPTIED:
            yield f"GRANT ALTER ON {table.fullname} TO {Role.PIPELINE}"
    for name, roles in ACCESS.items():
        for role, privileges in roles.items():
            yield f"GRANT {_on(privileges, name)} TO {role}"


def script() -> str:
    """The whole of it as one T-SQL script, for a DBA."""
    made = (f"IF DATABASE_PRINCIPAL_ID(N'{role}') IS NULL CREATE ROLE {role}" for role in Role)
    return "".join(f"{statement};\n" for statement in (*made, *grants()))


def _on(privileges: str, name: str) -> str:
    verb, paren, columns = privileges.partition(" (")
    return f"{verb} ON {name}{paren}{columns}"


def _may_grant(connection: Connection) -> bool:
    # The owner has CONTROL; some TDS servers were seen to say that it hasn't.
    asked = text(
        "SELECT COALESCE(HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CONTROL'), 0) "
        "+ COALESCE(IS_ROLEMEMBER('db_securityadmin'), 0) + CASE WHEN USER_NAME() = 'dbo' THEN 1 ELSE 0 END"
    )
    return int(connection.execute(asked).scalar_one()) > 0


def _missing_roles(connection: Connection) -> list[str]:
    asked = text("SELECT name FROM sys.database_principals WHERE type = 'R'")
    there = set(connection.execute(asked).scalars())
    return [f"CREATE ROLE {role}" for role in Role if role not in there]


if __name__ == "__main__":
    sys.stdout.write(script())
