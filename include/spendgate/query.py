"""Read-only queries of people, in the warehouse's own SQL or in T-SQL.

What keeps them read-only, one behind the other:

1. The text must be one SELECT, by its parsed tree and by its words: T-SQL needs no semicolon between two
   statements, and a parser that is not SQL Server's takes the COMMIT in `SELECT 1 COMMIT` for an alias.
2. PostgreSQL gets it in a READ ONLY transaction, by the protocol that takes one statement a message.
3. The transaction is rolled back, on both engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import sqlglot
from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from spendgate.errors import ConfigurationError, PermanentError, SpendGateError, WarehouseOutdatedError
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.failures import failed_number, permission_hint, translate_failure
from spendgate.warehouse.statements import parse_tsql, to_postgres

# SQLSTATEs of a syntax error and of functions, columns and types that aren't there: what T-SQL runs into here.
_NOT_POSTGRESQL = ("42601", "42883", "42703", "42804")

_SQLGLOT = {"postgresql": "postgres", "mssql": "tsql"}
_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Into, exp.Create, exp.Drop, exp.Alter, exp.Command)
# Reserved in T-SQL, hence never a name there unless quoted: what begins a statement other than SELECT or names a
# place to write to. The last three reach servers where our rollback doesn't.
_VERBS = (
    "ALTER BACKUP BEGIN BREAK BULK CHECKPOINT CLOSE COMMIT CONTINUE CREATE DBCC DEALLOCATE DECLARE DELETE DENY DROP "
    "DUMP ERRLVL EXEC EXECUTE EXIT GOTO GRANT IF INSERT INTO KILL LOAD OPEN PRINT PROC PROCEDURE RAISERROR READTEXT "
    "RECONFIGURE RESTORE RETURN REVERT REVOKE ROLLBACK SAVE SET SETUSER SHUTDOWN TRAN TRANSACTION TRUNCATE UPDATE "
    "UPDATETEXT USE WAITFOR WHILE WRITETEXT OPENDATASOURCE OPENQUERY OPENROWSET"
)
_QUOTED = (TokenType.IDENTIFIER, TokenType.STRING, TokenType.NATIONAL_STRING)


class _RefusedError(Exception):
    """What the engine said to the query; its number, as long as the connection remembers it."""

    def __init__(self, error: DBAPIError, number: int | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.number = number


def run_query(warehouse: Warehouse, sql: str) -> tuple[list[str], Sequence[Row[Any]]]:
    """Column names and rows of one SELECT, in a transaction that can't write and is rolled back.

    On the laptop's PostgreSQL a query that isn't PostgreSQL is translated from T-SQL.

    Raises:
        ConfigurationError: it isn't one SELECT, or the warehouse doesn't understand it.
        TransientError, PermanentError: as the warehouse says.
    """
    _require_query(sql, warehouse.dialect)
    try:
        return _run(warehouse, sql)
    except _RefusedError as refused:
        error, number = refused.error, refused.number
        if warehouse.dialect == "postgresql" and getattr(error.orig, "sqlstate", None) in _NOT_POSTGRESQL:
            # The sentence is about what the person wrote, so a translation that fails too doesn't show.
            with suppress(ConfigurationError, _RefusedError, sqlglot.errors.SqlglotError):
                return _run(warehouse, to_postgres(parse_tsql("the query", sql)))
        raise _explain(warehouse, error, number) from error


def _run(warehouse: Warehouse, sql: str) -> tuple[list[str], Sequence[Row[Any]]]:
    with warehouse.connect() as connection:
        try:
            if warehouse.dialect == "postgresql":
                connection.execute(text("SET TRANSACTION READ ONLY"))
                # From the first execution on, statements are prepared: PostgreSQL prepares one at a time only.
                connection.connection.driver_connection.prepare_threshold = 0  # type: ignore[union-attr]
            result = connection.execution_options(no_parameters=True).exec_driver_sql(sql)
            return list(result.keys()), result.all()
        except ResourceClosedError as error:
            raise ConfigurationError("That returns no rows; give query one SELECT.") from error
        except DBAPIError as error:
            number = None
            if warehouse.dialect == "mssql":
                number = failed_number(connection)
                connection.invalidate()  # XACT_ABORT ended the transaction: there is none to roll back
            raise _RefusedError(error, number) from error
        finally:
            connection.rollback()
            if warehouse.dialect == "postgresql":
                connection.invalidate()  # the next one expects a connection as the pool makes it


def _require_query(sql: str, dialect: str) -> None:
    refusal = ConfigurationError("query reads only; give it one SELECT (or WITH ... SELECT) statement.")
    try:
        tokens = sqlglot.tokenize(sql, read=_SQLGLOT[dialect])
    except sqlglot.errors.SqlglotError as error:
        raise ConfigurationError(f"That is no SQL: {_first_line(error)}.") from error
    if not _begins_with_select(tokens) or (dialect == "mssql" and _may_write(tokens)):
        raise refusal
    trees = _parsed(sql, dialect)
    if trees is not None and (len(trees) != 1 or not isinstance(trees[0], exp.Query) or trees[0].find(*_WRITES)):
        raise refusal
    if trees is None and _statements(tokens) != 1:
        raise refusal


def _parsed(sql: str, dialect: str) -> list[exp.Expr] | None:
    """The statements in `sql`; None: sqlglot doesn't understand it, which needn't mean that the server doesn't."""
    for read in dict.fromkeys((_SQLGLOT[dialect], "tsql")):
        with suppress(sqlglot.errors.SqlglotError):
            return [tree for tree in sqlglot.parse(sql, read=read) if tree is not None]
    return None


def _begins_with_select(tokens: list[Token]) -> bool:
    first = next((token for token in tokens if token.token_type is not TokenType.L_PAREN), None)
    return first is not None and first.token_type in (TokenType.SELECT, TokenType.WITH)


def _may_write(tokens: list[Token]) -> bool:
    words = [("" if token.token_type in _QUOTED else token.text.upper()) for token in tokens]
    # A sequence isn't turned back by a rollback.
    return not set(_VERBS.split()).isdisjoint(words) or ("NEXT", "VALUE") in pairwise(words)


def _statements(tokens: list[Token]) -> int:
    inner = tokens[:-1] if tokens and tokens[-1].token_type is TokenType.SEMICOLON else tokens
    return 1 + sum(token.token_type is TokenType.SEMICOLON for token in inner)


def _explain(warehouse: Warehouse, error: DBAPIError, number: int | None) -> SpendGateError:
    meant = translate_failure(error, warehouse.engine.url, number, warehouse.setting)
    if type(meant) in (PermanentError, WarehouseOutdatedError):
        hint = permission_hint(error, number, warehouse.setting)
        return ConfigurationError(f"The warehouse refused the query: {_first_line(error.orig)}{hint}.")
    return meant


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
