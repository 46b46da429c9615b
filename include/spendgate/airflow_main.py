"""`python -m spendgate.airflow_main`: Airflow's own command line, loaded with a collector that looks seldom."""

from __future__ import annotations

from spendgate.collector import collect_seldom


def main() -> None:
    """What `python -m airflow` does with the same arguments."""
    collect_seldom()
    from airflow.__main__ import main as airflow_main

    airflow_main()  # type: ignore[no-untyped-call]  # Airflow's has no annotations


if __name__ == "__main__":
    main()
