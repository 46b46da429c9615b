"""Read ahead by one: the next thing is made while the one before it is dealt with."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Thing = TypeVar("Thing")


def one_ahead(things: Iterator[Thing]) -> Generator[Thing, None, None]:
    """`things` in order, each asked for, in a thread of its own, while the one before it is in the caller's hands.

    An error of `things` comes where its thing would have come, after all before it. Closing waits for the thing that
    is being made, so that nobody asks `things` for anything afterwards.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="spendgate-ahead") as pool:
        coming = pool.submit(next, things, end)
        while (thing := coming.result()) is not end:
            coming = pool.submit(next, things, end)
            yield thing  # type: ignore[misc]  # `end` isn't among them
