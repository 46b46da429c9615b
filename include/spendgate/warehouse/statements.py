"""SQL files: one T-SQL statement each, run as it is on SQL Server and through sqlglot on PostgreSQL.

The subset of T-SQL that may be used, and why, is docs/sql-subset.md; tests/warehouse/test_sql_rules.py checks
every file against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import sqlglot
from sqlalchemy import TextClause, text
from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from spendgate.errors import ConfigurationError
from spendgate.settings import ROOT

SQL_ROOT = ROOT / "sql"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement for one engine: its text with `:name` parameters, and the parameters' names."""

    name: str
    text: TextClause
    parameters: frozenset[str]


@cache
def load_statement(name: str, dialect: str) -> Statement:
    """The statement in sql/<name>.sql for `dialect` ("mssql" or "postgresql")."""
    source = (SQL_ROOT / f"{name}.sql").read_text(encoding="utf-8")
    return translate_statement(name, source, dialect)


def translate_statement(name: str, source: str, dialect: str) -> Statement:
    """A T-SQL statement with `@name` parameters as SQLAlchemy takes it."""
    if dialect == "mssql":
        tokens = sqlglot.tokenize(source, read="tsql")
        return Statement(name, text(_colon_parameters(source, tokens)), frozenset(_parameter_names(tokens)))
    tree = parse_tsql(name, source)
    parameters = frozenset(node.name for node in tree.find_all(exp.Parameter))
    return Statement(name, text(to_postgres(tree)), parameters)


def parse_tsql(name: str, source: str) -> exp.Expr:
    """The one statement in `source`.

    Raises:
        ConfigurationError: it isn't T-SQL, or isn't exactly one statement.
    """
    try:
        trees = [tree for tree in sqlglot.parse(source, read="tsql") if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        raise ConfigurationError(f"{name} is not T-SQL: {str(error).splitlines()[0]}") from error
    if len(trees) != 1:
        raise ConfigurationError(f"{name} holds {len(trees)} statements; write one statement a file.")
    return trees[0]


def to_postgres(tree: exp.Expr) -> str:
    """PostgreSQL for a T-SQL tree; parameters become `:name`."""
    tree = tree.copy()
    for node in list(tree.find_all(exp.Parameter)):
        node.replace(exp.Var(this=f":{node.name}"))
    for ordered in tree.find_all(exp.Ordered):
        # We order by columns that are never NULL only. Saying where NULLs go, as sqlglot would to mirror
        # T-SQL, keeps PostgreSQL from reading `TOP 1 ... ORDER BY ... DESC` off an index.
        ordered.set("nulls_first", bool(ordered.args.get("desc")))
    return tree.sql(dialect="postgres", comments=False, unsupported_level=sqlglot.ErrorLevel.RAISE)


def _parameter_names(tokens: list[Token]) -> list[str]:
    return [after.text for at, after in pairwise(tokens) if at.token_type is TokenType.PARAMETER]


def _colon_parameters(source: str, tokens: list[Token]) -> str:
    """`source` from its first token to its last, to the letter, with `:` for the `@` of parameters."""
    pieces: list[str] = []
    done = tokens[0].start
    for token in tokens:
        if token.token_type is TokenType.PARAMETER:
            pieces += [source[done : token.start], ":"]
            done = token.end + 1
    last = tokens[-1]
    end = last.start if last.token_type is TokenType.SEMICOLON else last.end + 1
    return "".join([*pieces, source[done:end]])


def statement_files(folder: str) -> list[str]:
    """Names (as `load_statement` takes them) of the statements in sql/<folder>, in order."""
    return [f"{folder}/{path.stem}" for path in sorted(Path(SQL_ROOT / folder).glob("*.sql"))]
