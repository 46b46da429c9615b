"""Mounts the budget API under /budget of Airflow's API server (docs/api.md).

Every process of Airflow imports plugins: this one makes an object and opens nothing. The app is built by the first
request; what keeps it from being built is that request's answer, and nobody else's trouble.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from spendgate.api.mount import MOUNTED_AT, BarePath, LazyApi

_API = LazyApi()
_NAME = "SpendGate budget API"


class BudgetApiPlugin(AirflowPlugin):
    """The mount."""

    name = "spendgate_budget_api"
    fastapi_apps = [{"app": _API, "url_prefix": MOUNTED_AT, "name": _NAME}]
    fastapi_root_middlewares = [{"middleware": BarePath, "args": [], "kwargs": {"api": _API}, "name": _NAME}]
