"""Python's garbage collector, told that most of what a start makes stays."""

from __future__ import annotations

import gc

# Airflow and our libraries make some million objects when they load, and keep them. By its defaults the collector
# looks through them again and again: a fifth of the CPU time of a headless run. Cycles of this many objects are
# some megabytes.
YOUNG, OLDER, OLDEST = 50_000, 20, 20


def collect_seldom() -> None:
    """Let the collector look at 50,000 new objects at a time, not at 700; call it before anything large is loaded."""
    gc.set_threshold(YOUNG, OLDER, OLDEST)
