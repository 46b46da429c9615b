"""Reading ahead by one: what comes, in which order, and what is left when somebody stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from spendgate.ahead import one_ahead

SECONDS = 10.0


def test_the_next_thing_is_made_while_the_one_before_it_is_in_hand() -> None:
    made = [threading.Event() for _ in range(3)]

    def things() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with closing(one_ahead(things())) as numbers:
        assert next(numbers) == 0
        assert made[1].wait(SECONDS)
        assert not made[2].wait(0.05)  # by one, not by two: memory is bounded
        assert list(numbers) == [1, 2]


def test_an_error_comes_after_everything_before_it() -> None:
    def things() -> Iterator[int]:
        yield from range(2)
        raise ValueError("torn")

    numbers = one_ahead(things())
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(ValueError, match="torn"):
        next(numbers)


def test_who_stops_early_gets_the_source_back_unwatched() -> None:
    asked, let_go = threading.Event(), threading.Event()
    made = []

    def things() -> Iterator[int]:
        yield 0
        asked.set()
        let_go.wait(SECONDS)
        made.append(1)
        yield 1
        made.append(2)

    numbers = one_ahead(things())
    assert next(numbers) == 0
    assert asked.wait(SECONDS)
    threading.Timer(0.1, let_go.set).start()
    numbers.close()
    assert made == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("spendgate-ahead")]
