"""`./spendgate api`: the API alone, without Airflow, under uvicorn."""

from __future__ import annotations

import logging
from collections.abc import Callable

import uvicorn

from spendgate.api.access_log import write_as_it_is
from spendgate.api.app import create_app
from spendgate.api.asgi import BudgetApi, Mounted
from spendgate.api.mount import MOUNTED_AT
from spendgate.local.processes import pick_port
from spendgate.settings import Settings

# A client that says nothing for so long, or sends headers of more than this, is let go.
KEEP_ALIVE_SECONDS = 30
MOST_HEADER_BYTES = 16 * 1024
GRACE_SECONDS = 5


def configuration(app: object, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves the API: limits on, its own access log and name off."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI app
        host=host,
        port=port,
        lifespan="off",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        limit_concurrency=2_000,
        backlog=2_048,
    )


def serve(settings: Settings, report: Callable[[str], None]) -> None:
    """Serve until it is stopped; a setting that is wrong is told before anything listens.

    Raises:
        ConfigurationError, ServiceError: as `create_app` says.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    write_as_it_is()
    app = create_app(settings)
    port = pick_port("SPENDGATE_API_PORT", settings.api_port)
    report(f"The API: http://{settings.api_host}:{port}{MOUNTED_AT}/v1/docs  stop it with Ctrl-C")
    uvicorn.Server(configuration(Mounted(BudgetApi(lambda: app)), settings.api_host, port)).run()
