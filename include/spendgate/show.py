"""What a person sees on the terminal: tables, sentences, progress."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from spendgate.clock import format_instant
from spendgate.warehouse.engine import as_utc


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Tick(Protocol):
    """Progress so far."""

    def __call__(self, done: int, total: int) -> None: ...


def tell(line: str) -> None:
    """One line about what is going on; on stderr, so that stdout holds results only."""
    print(line, file=sys.stderr, flush=True)


def say(line: str = "") -> None:
    """One line of result."""
    print(line, flush=True)


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], style: Format = Format.TABLE) -> None:
    """Write rows to stdout. Money and other decimals keep their digits; times are RFC 3339 in UTC."""
    if style is Format.JSON:
        json.dump([dict(zip(columns, map(_json, row), strict=True)) for row in rows], sys.stdout, indent=1)
        say()
    elif style is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if value is None else _text(value) for value in row] for row in rows])
    else:
        show_table(columns, rows)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Write rows as a table; numbers to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | Decimal | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*["-" if value is None else _text(value) for value in row])
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width, highlight=False, markup=False, soft_wrap=False).print(table)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return format_instant(value if value.tzinfo else as_utc(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)


def _json(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return _text(value)  # JSON has no NaN
    return value if value is None or isinstance(value, int | float | bool) else _text(value)


@contextmanager
def progress(what: str) -> Iterator[Tick]:
    """A progress bar on stderr; on something that is no terminal, one line at the beginning."""
    if not sys.stderr.isatty():
        tell(f"{what} ...")
        yield lambda done, total: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def counted(counts: Mapping[str, int]) -> str:
    """`name 3, other 5`; a dash when there are none."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "-"
