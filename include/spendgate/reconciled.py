"""`./spendgate reconcile` and `./spendgate purge`: what a person sees of the books and of what leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spendgate.bookkeeping import Bookkeeping, asked_days
from spendgate.clock import utc_now
from spendgate.local import services
from spendgate.people import checked_name
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings
from spendgate.show import say, show_table, tell
from spendgate.warehouse.engine import Warehouse

# Of the books, in this order; a state that isn't among them comes behind.
_COLUMNS = ("read", "merged", "duplicate", "superseded", "rejected")


def run_reconciliation(
    settings: Settings, first: str | None, last: str | None, *, repair: bool, by: str | None
) -> None:
    """Reconcile days that a person names, and show how every event that was read ended.

    Raises:
        ConfigurationError: no such days, or nobody is said to repair.
        DiscrepancyError: something differs; the sentence says what.
    """
    days = asked_days(first, last, utc_now().date())
    name = checked_name(by or "", "repairs by --by") if repair else (by or "").strip()
    tell(f"Comparing {days.first} to {days.last}.")
    with _pipeline(settings) as pipeline:
        done = Bookkeeping(pipeline, name or "reconcile").reconcile(days, repair=repair)
    show_books(done["books"])
    say(f"What came in is what is in the tables. {done['repaired']} repaired, {done['accepted']} accepted before.")


def show_books(books: dict[str, dict[str, int]]) -> None:
    """A line a stream: events read = all the others of the line."""
    others = sorted({name for line in books.values() for name in line}.difference(_COLUMNS))
    columns = [*_COLUMNS, *others]
    show_table(
        ["stream", *columns], [[stream, *(line.get(name, 0) for name in columns)] for stream, line in books.items()]
    )


def run_purge(settings: Settings) -> None:
    """Purge, and say what was removed."""
    with _pipeline(settings) as pipeline:
        removed = pipeline.purge_history()
    show_table(["removed", "how many"], [[name.replace("_", " "), count] for name, count in removed.items()])


@contextmanager
def _pipeline(settings: Settings) -> Iterator[Pipeline]:
    warehouse = Warehouse(services.warehouse_url(settings), lock_timeout=settings.lock_timeout)
    try:
        yield Pipeline(settings, warehouse, services.endpoints(settings))
    finally:
        warehouse.close()
