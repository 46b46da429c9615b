"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give the heap's free pages back: some milliseconds in which other threads run. Nothing without glibc.

    glibc keeps what a thread has freed below what still stands, for that thread. Loading 100,000 flags leaves 30 MB
    so, in each thread that ever did it.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


@cache
def _find_trim() -> Callable[[int], int] | None:
    # malloc_trim(3): in all arenas, since glibc 2.8.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
