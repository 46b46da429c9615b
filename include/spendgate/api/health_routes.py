"""How the API is: alive, and ready."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from flask import Response

from spendgate.api.context import Context, here
from spendgate.api.hot import JSON
from spendgate.api.routes import Access, Routes, publish
from spendgate.api.schemas import HealthOut
from spendgate.errors import SpendGateError, WarehouseOutdatedError
from spendgate.warehouse import schema
from spendgate.warehouse.engine import as_utc

log = logging.getLogger(__name__)
routes = Routes("health", __name__, url_prefix="/v1/health", description="For load balancers and monitors.")

# A monitor hears within two seconds how it is, also when the warehouse doesn't say a word.
PATIENCE_SECONDS = 1.5


def _live() -> Response:
    """Whether the process answers; asks nobody else."""
    return _respond({"status": "ok", "reasons": []}, 200)


def _ready() -> Response:
    """Whether it answers with flags to go by: the warehouse is there, of our schema, and its flags are fresh."""
    told: list[Mapping[str, Any]] = []
    context = here()
    # A driver may wait longer than we do, and can't be told: its thread is left behind.
    thread = threading.Thread(target=lambda: told.append(_look(context)), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    found = told[0] if told else {"reasons": [f"the warehouse didn't answer within {PATIENCE_SECONDS:g} s"]}
    status = "unavailable" if found["reasons"] else "ok"
    return _respond(
        {"flags_as_of": None, "flag_count": None, **found, "status": status}, 503 if found["reasons"] else 200
    )


def _look(context: Context) -> Mapping[str, Any]:
    try:
        schema.require_current(context.warehouse)
        with context.warehouse.transaction(read_only=True) as transaction:
            row = transaction.rows("api/find_flag_state")[0]
    except WarehouseOutdatedError as error:
        return {"reasons": [str(error)]}
    except SpendGateError as error:
        log.warning("Not ready: %s", error)
        return {"reasons": ["the warehouse can't be read: the API's log says why"]}
    if row.oldest_as_of is None:
        return {"reasons": ["there are no flags yet"], "flag_count": 0}
    told = {"reasons": [], "flags_as_of": as_utc(row.oldest_as_of), "flag_count": row.flag_count}
    if context.clock() - as_utc(row.oldest_as_of) > context.max_age:
        hours = context.settings.flag_max_age
        told["reasons"] = [f"flags were not decided for more than {hours:g} h, and answer no"]
    return told


def _respond(told: Mapping[str, Any], status: int) -> Response:
    return Response(json.dumps(HealthOut().dump(told)), status, mimetype=JSON)


publish(routes, "/live", routes.response(200, HealthOut)(_live), Access.PUBLIC)
_made = routes.alt_response(503, schema=HealthOut, content_type=JSON, description="Not ready.")(_ready)
publish(routes, "/ready", routes.response(200, HealthOut)(_made), Access.PUBLIC)
