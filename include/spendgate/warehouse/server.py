"""What the server is that speaks SQL Server's protocol, and which branches of ours it takes.

Every branch that some server doesn't take is a `Feature`, here and nowhere else; docs/schema.md lists them. Released
migrations import this module: names stay.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import Connection, text

log = logging.getLogger(__name__)

# SERVERPROPERTY('EngineEdition') of what we know:
# https://learn.microsoft.com/sql/t-sql/functions/serverproperty-transact-sql
_BOXED = frozenset({2, 3, 4})  # Standard, Enterprise (also Developer and Evaluation), Express
_AZURE_SQL_DATABASE = 5
_MANAGED = frozenset({_AZURE_SQL_DATABASE, 8, 12})  # Azure SQL Database, Managed Instance, SQL database in Fabric
# SQL Server 2019. Azure's report 12 whatever they can.
_OLDEST = 15
# https://learn.microsoft.com/sql/relational-databases/indexes/columnstore-indexes-overview: S3 and above, and vCores.
_WITHOUT_COLUMNSTORE = frozenset({"Basic", "S0", "S1", "S2"})


class Feature(Enum):
    """A guarded branch: what we do on a server that takes it. On others it is left out, and the log says so."""

    COMPRESSION = "page and row compression of the indexes of the big tables"
    COLUMNSTORE = "the nonclustered columnstore index ncci_click_event on ads.ClickEvent"
    ROW_VERSIONING = "READ_COMMITTED_SNAPSHOT of the database, checked and set"
    DEFAULT_NAMES = "the default of etl.Batch.is_replay, dropped by its name where migration 0002 is undone"
    GRANT_ALTER = "the permission ALTER for spendgate_pipeline, which TRUNCATE TABLE asks for, on the work tables"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself; `objective` is Azure SQL Database's service objective (S2, GP_Gen5_4), else ''."""

    product: str
    major: int
    edition: int
    objective: str = ""

    @property
    def is_sql_server(self) -> bool:
        """SQL Server 2019 or later, or Azure's; others only speak its protocol."""
        return self.edition in _MANAGED or (self.edition in _BOXED and self.major >= _OLDEST)

    def has(self, feature: Feature) -> bool:
        """Whether the server takes the branch; if it doesn't, the log says what is left out."""
        there = self.is_sql_server and not (feature is Feature.COLUMNSTORE and self.objective in _WITHOUT_COLUMNSTORE)
        if not there:
            log.info("%s doesn't take it, so this is left out: %s.", self.product, feature.value)
        return there


# What a script is written for when there is no server to ask: one that has everything.
ANY_SQL_SERVER = Server("SQL Server", _OLDEST, 3)


def read_server(connection: Connection) -> Server:
    """What the server behind a connection to SQL Server's protocol says of itself."""
    row = connection.execute(
        text(
            "SELECT CAST(SERVERPROPERTY('ProductVersion') AS NVARCHAR(60)) AS version, "
            "CAST(SERVERPROPERTY('EngineEdition') AS INT) AS edition, "
            "CAST(SERVERPROPERTY('Babelfish') AS INT) AS babelfish, "
            "LEFT(@@VERSION, 60) AS banner"
        )
    ).one()
    banner = " ".join(str(row.banner).split())
    if row.babelfish or not banner.startswith("Microsoft "):
        return Server("Babelfish for PostgreSQL" if row.babelfish else banner, 0, 0)
    edition = int(row.edition)
    major = int(str(row.version).split(".")[0])
    objective = _service_objective(connection) if edition == _AZURE_SQL_DATABASE else ""
    return Server(f"SQL Server {row.version}" if edition in _BOXED else banner, major, edition, objective)


def _service_objective(connection: Connection) -> str:
    asked = text("SELECT CAST(DATABASEPROPERTYEX(DB_NAME(), 'ServiceObjective') AS NVARCHAR(60))")
    return str(connection.execute(asked).scalar_one() or "")
