"""Processes that coverage leaves alone."""

from __future__ import annotations

import os
from collections.abc import Mapping


def untraced(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables (by default this process's) without those by which coverage follows into a Python process.

    A tracer makes one half as slow again. Processes that are no code of ours, are killed before they could tell what
    they ran, or run what tests here run in process as well, do without.
    """
    variables = os.environ if environment is None else environment
    return {name: value for name, value in variables.items() if not name.startswith("COVERAGE_PROCESS_")}
