"""Airflow's REST API, as a person uses it through the UI.

Apart from `airflow`, which every command loads: the HTTP client alone takes a quarter of a second.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from spendgate.errors import ServiceError
from spendgate.local.airflow import USER, password, url
from spendgate.local.processes import Supervisor
from spendgate.settings import Settings

Query = Mapping[str, str | int]
FINISHED_STATES = frozenset({"success", "failed"})


def client(settings: Settings) -> AirflowClient:
    """A client of this home's Airflow.

    Raises:
        ServiceError: Airflow was never started here.
    """
    address = url(Supervisor(settings.home))
    if address is None:
        raise ServiceError("Airflow was never started here: run ./spendgate up.")
    return AirflowClient(address, USER, password(settings.home))


class AirflowClient:
    """What a person does in the UI, by the REST API: unpause, trigger, wait, look at results."""

    def __init__(self, address: str, user: str, password: str, timeout: float = 30.0) -> None:
        # Never through a proxy: it is this machine.
        self._http = httpx.Client(base_url=address, timeout=timeout, trust_env=False)
        self._login = {"username": user, "password": password}

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self._request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Keep the scheduler from starting runs of the DAG."""
        self._request("PATCH", f"/dags/{dag_id}", json={"is_paused": True})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run and return its id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self._request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def wait(self, dag_id: str, run_id: str, timeout: float, report: Callable[[str], None]) -> str:
        """Wait until the run has ended; its state, `success` or `failed`. Each change of state is reported.

        Raises:
            ServiceError: it hasn't ended within `timeout` seconds.
        """
        deadline, last = time.monotonic() + timeout, ""
        while True:
            state = str(self._request("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])
            if state != last:
                report(f"{dag_id}: {state}")
                last = state
            if state in FINISHED_STATES:
                return state
            if time.monotonic() > deadline:
                raise ServiceError(f"Run {run_id} of {dag_id} is {state} after {timeout:.0f} s: see Airflow's UI.")
            time.sleep(0.5)

    def runs(self, dag_id: str, limit: int = 50) -> list[dict[str, Any]]:
        """The DAG's latest runs, newest first, as the API gives them."""
        query: Query = {"order_by": "-run_after", "limit": limit}
        return list(self._request("GET", f"/dags/{dag_id}/dagRuns", params=query)["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run, as the API gives them."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self._request("GET", path)["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> object:
        """A value that a task left; None when it left none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        response = self._send("GET", path, params={"map_index": map_index})
        return None if response.status_code == httpx.codes.NOT_FOUND else _body(response)["value"]

    def wait_for_dag(self, dag_id: str, timeout: float = 60.0) -> None:
        """Wait until Airflow knows the DAG.

        Raises:
            ServiceError: its file doesn't import, or Airflow doesn't know it within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self._send("GET", f"/dags/{dag_id}").status_code == httpx.codes.NOT_FOUND:
            for error in self._request("GET", "/importErrors")["import_errors"]:
                if Path(error["filename"]).stem == dag_id:
                    raise ServiceError(f"{error['filename']} doesn't import: see Airflow's UI for the error.")
            if time.monotonic() > deadline:
                raise ServiceError(f"Airflow doesn't know {dag_id} after {timeout:.0f} s: see the dag-processor's log.")
            time.sleep(0.5)

    def _request(
        self, method: str, path: str, *, params: Query | None = None, json: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return _body(self._send(method, path, params=params, json=json))

    def _send(
        self, method: str, path: str, *, params: Query | None = None, json: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        request = functools.partial(self._http.request, method, f"/api/v2{path}", params=params, json=json)
        try:
            response = request()
            if response.status_code == httpx.codes.UNAUTHORIZED:
                token = _body(self._http.post("/auth/token", json=self._login))["access_token"]
                self._http.headers["Authorization"] = f"Bearer {token}"
                response = request()
        except httpx.HTTPError as error:
            raise ServiceError("Airflow doesn't answer: see ./spendgate status, run ./spendgate up.") from error
        return response


def _body(response: httpx.Response) -> dict[str, Any]:
    path = response.request.url.path
    try:
        body = response.raise_for_status().json()
    except (httpx.HTTPStatusError, ValueError) as error:
        raise ServiceError(f"Airflow answered {response.status_code} to {path}: see the api-server's log.") from error
    if not isinstance(body, dict):
        raise ServiceError(f"Airflow answered {path} with no object: see the api-server's log.")
    return body


def ask_health(address: str, timeout: float) -> dict[str, dict[str, str]] | None:
    """What the API server says of its components; None when it doesn't answer within `timeout` seconds."""
    try:
        response = httpx.get(f"{address}/api/v2/monitor/health", timeout=timeout, trust_env=False)
        found = response.raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return None
    return found if isinstance(found, dict) else None
