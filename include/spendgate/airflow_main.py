"""`python -m spendgate.airflow_main`: Airflow's own command line, loaded so that tasks and DAG files cost little.

Every task, and every look at a DAG file, is a fork of the scheduler or the dag-processor. What these have loaded, a
fork need not load again: a second of processor time for each task. A change of our code needs them started anew, which
`./spendgate up` does.
"""

from __future__ import annotations

import importlib
import sys

from spendgate.collector import collect_seldom

FORKING = ("scheduler", "dag-processor")
# The last one isn't ours: the first array that Arrow makes of a list loads it.
LOADED_BEFORE = ("spendgate.airflow_adapter", "pandas")


def main() -> None:
    """What `python -m airflow` does with the same arguments."""
    collect_seldom()
    from airflow.__main__ import main as airflow_main

    if sys.argv[1:2] and sys.argv[1] in FORKING:
        for name in LOADED_BEFORE:
            importlib.import_module(name)
    airflow_main()  # type: ignore[no-untyped-call]  # Airflow's has no annotations


if __name__ == "__main__":
    main()
