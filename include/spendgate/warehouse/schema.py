"""The schema's version: migrations up and down, what goes with them, and whether a warehouse is up to date."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.schema import CreateSchema

from spendgate.errors import ConfigurationError, WarehouseOutdatedError
from spendgate.warehouse.descriptions import write_descriptions
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.roles import grant_roles
from spendgate.warehouse.statements import SQL_ROOT, load_statement, statement_files
from spendgate.warehouse.tables import SCHEMAS, WORK

VERSION_TABLE = "schema_version"
VIEWS = ("SpendByDay", "SpendByWeek", "SpendByMonth", "CurrentServing")


def migrate(warehouse: Warehouse, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the schema up or down to `revision` ("base": nothing), all in one transaction.

    What isn't versioned is brought up to date with the newest revision: views, descriptions, and on SQL Server roles.
    Returns the revisions before and after; None is an empty warehouse.

    Raises:
        ConfigurationError: there is no such revision.
        WarehouseOutdatedError: the warehouse was made by a newer version.
        TransientError, PermanentError: as the warehouse says.
    """
    with warehouse.transaction() as transaction:
        transaction.hold(Lock.MIGRATE)
        connection = transaction.connection
        _create_schemas(connection)
        before = _revision(connection)
        _drop_views(connection)
        _go(_config(connection), before, revision)
        if _revision(connection) == _head():
            _create_views(connection, warehouse.dialect)
            _spare_work_tables(connection, warehouse.dialect)
            write_descriptions(connection)
            if warehouse.dialect == "mssql":
                grant_roles(connection)
        return before, _revision(connection)


def _go(config: Config, before: str | None, revision: str) -> None:
    """Up, or down if `revision` stands before the one that the warehouse is at."""
    scripts = ScriptDirectory.from_config(config)
    known = [script.revision for script in scripts.walk_revisions()]  # newest first
    if before is not None and before not in known:
        raise WarehouseOutdatedError(
            f"The warehouse's schema is at revision {before}, which this version doesn't know: "
            "run the version that made it."
        )
    if revision not in ("head", "base", *known):
        raise ConfigurationError(f"There is no revision {revision!r}; there are {', '.join(reversed(known))}.")
    if revision == "base" or (revision in known and before in known[: known.index(revision)]):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def require_current(warehouse: Warehouse) -> None:
    """Raise unless the warehouse's schema is the one that this version works with.

    Raises:
        WarehouseOutdatedError: it isn't; the sentence says what to run.
    """
    with warehouse.transaction(read_only=True) as transaction:
        found = _revision(transaction.connection)
    if found != _head():
        raise WarehouseOutdatedError(
            f"The warehouse's schema is at revision {found}, this version needs {_head()}: run ./spendgate migrate."
        )


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SQL_ROOT / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": "etl"}
    )
    return context.get_current_revision()


def _create_schemas(connection: Connection) -> None:
    present = set(inspect(connection).get_schema_names())
    for schema in SCHEMAS:
        if schema not in present:
            connection.execute(CreateSchema(schema))


def _drop_views(connection: Connection) -> None:
    for view in VIEWS:
        connection.execute(text(f"DROP VIEW IF EXISTS ads.{view}"))


def _create_views(connection: Connection, dialect: str) -> None:
    for name in statement_files("views"):
        connection.execute(load_statement(name, dialect).text)


def _spare_work_tables(connection: Connection, dialect: str) -> None:
    """Work tables hold nothing between transactions, so PostgreSQL needn't log them to survive a crash."""
    if dialect == "postgresql":
        for table in WORK:
            connection.execute(text(f"ALTER TABLE {table.fullname} SET UNLOGGED"))
